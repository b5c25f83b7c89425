"""A comparison of engines as a page, a picture and JSON. Runs in: evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.train.tables import bounds, number, rounded, table

if TYPE_CHECKING:
    from engines.train.compare import Comparison, System

MEASURES = {
    "note_player": "note-F, player", "note_target": "note-F, target", "timbre": "timbre", "mel_db": "log-mel dB",
    "frechet": "Fréchet distance",
}
SHOWN = ("timbre", "note_target", "frechet")


def systems(result: Comparison) -> str:
    """Every system, and the true targets as the ceiling."""
    rows = []
    for name in (*(system.name for system in result.systems), "true target"):
        cost = number(float(np.median(result.block_ms[name])), 1) if name in result.block_ms else "n/a"
        rows.append([name, *(bounds(result.value(name, measure)) for measure in MEASURES), cost])
    return table(("", *MEASURES.values(), "CPU ms per block"), rows)


def differences(result: Comparison) -> str:
    """Every system against what it is compared with; what is surely another at 95 % is bold."""
    rows = []
    for system in result.systems:
        other = result.against(system)
        if other is not None:
            values = [result.difference(system, other, measure) for measure in MEASURES]
            marked = [f"**{bounds(v, sign='+')}**" if v.low > 0 or v.high < 0 else bounds(v, sign="+") for v in values]
            rows.append([f"{system.name}, against {other.name}", *marked])
    return table(("", *MEASURES.values()), rows) if rows else "There is one system only.\n"


METHOD = """\
- All systems play the same clips with the same noise: of every unseen score four of 24 seconds, in which guitars and instruments take
  turns. Judges and measures are those of evaluation.md.
- **Fréchet distance** is corrected for the small number of windows: scores are left out in turn (jackknife), and what each contributes
  takes the place of a score's own value. It may fall below zero.
- Brackets: 95 %, by bootstrap over scores; of differences by Student's t over scores, each score's difference being one value. Bold: the
  interval does not hold zero. That many figures stand side by side is not allowed for: one in twenty is bold by chance.
- Higher is better for note-F and timbre, lower for log-mel and Fréchet distance. Log-mel rewards the average of all plausible answers,
  as regression does: it never ranks engines by itself.
- CPU time is the median of all blocks, on one thread of a machine that did other work meanwhile.
"""


def markdown(result: Comparison) -> str:
    sections = (
        ("Systems", systems(result) + f"\n![]({result.title}.png)\n"),
        ("Differences", differences(result)),
        ("How it was measured", METHOD),
    )
    clips, scores = (len({(row.score, *extra(row)) for row in result.rows}) for extra in (lambda row: (row.instrument,), lambda row: ()))
    head = (
        f"# Comparison: {result.title}\n\n`{result.command}`\n\n{clips} clips of {scores} unseen scores. The timbre judge is right about "
        f"{result.judge_accuracy:.1%} of true renderings of unseen scores.\n"
    )
    return head + "".join(f"\n## {title}\n\n{body}" for title, body in sections)


def picture(result: Comparison, path: Path) -> None:
    """Timbre, notes and Fréchet distance over the number of steps, one line per engine."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        for engine in dict.fromkeys(system.engine for system in result.systems):
            ordered: Iterable[System] = sorted((s for s in result.systems if s.engine == engine), key=lambda system: system.steps)
            points = [(system.steps, result.value(system.name, measure)) for system in ordered]
            means = [value.mean for _, value in points]
            spread = [[value.mean - value.low for _, value in points], [value.high - value.mean for _, value in points]]
            axes.errorbar([steps for steps, _ in points], means, yerr=np.abs(spread), marker="o", capsize=3, label=engine)
        axes.axhline(result.value("true target", measure).mean, color="#a0aec0", linestyle=":", label="true target")
        steps = sorted({system.steps for system in result.systems})
        axes.set(title=MEASURES[measure], xlabel="denoising steps", xticks=steps)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=72)


def write(result: Comparison, folder: Path) -> list[Path]:
    """Write TITLE.md, .json and .png into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{result.title}.{suffix}" for suffix in ("md", "json", "png")]
    facts = {
        "command": result.command, "seed": result.seed, "judge_accuracy": result.judge_accuracy,
        "systems": {
            system.name: {
                **{measure: asdict(result.value(system.name, measure)) for measure in MEASURES},
                "block_ms": float(np.median(result.block_ms[system.name])),
            }
            for system in result.systems
        },
        "differences": [
            {"system": one.name, "against": other.name, **{m: asdict(result.difference(one, other, m)) for m in MEASURES}}
            for one in result.systems if (other := result.against(one)) is not None
        ],
        "rows": [asdict(row) for row in result.rows],
    }
    paths[0].write_text(markdown(result))
    paths[1].write_text(json.dumps(rounded(facts), indent=1) + "\n")
    picture(result, paths[2])
    return paths
