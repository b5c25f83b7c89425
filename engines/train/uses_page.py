"""The evaluation of the other uses as a page, a picture and JSON. Runs in: evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.train.metrics import Minute
from engines.train.report import number, table

if TYPE_CHECKING:
    from engines.train.uses import Uses


def drift(rollout: Sequence[Minute]) -> dict[str, float]:
    """Change from the first minute to the last of a straight line through the minutes, in dB."""
    measures = {
        "level": [m.level_db for m in rollout], "energy": [m.energy_db for m in rollout],
        "centroid": [20 * math.log10(max(m.centroid_hz, 1.0)) for m in rollout], "error": [m.error_db for m in rollout],
    }
    at = np.arange(len(rollout))
    return {name: float(np.polyfit(at, values, 1)[0] * (len(rollout) - 1)) for name, values in measures.items()}


def scatter(rollout: Sequence[Minute]) -> float:
    """Largest distance of a minute's energy from that line, in dB."""
    at, energy = np.arange(len(rollout)), np.array([m.energy_db for m in rollout])
    return float(np.abs(energy - np.polyval(np.polyfit(at, energy, 1), at)).max())


def goals(result: Uses) -> str:
    heard = float(np.nanmean([change.heard for change in result.changes]))
    between = float(np.mean([0 < morph.places[2] < 1 for morph in result.morphs]))
    p = max(max(jam.notes_p if "drum" not in jam.companion else 0.0, jam.beat_p) for jam in result.jams)
    worst = max(abs(drift(r)[name]) for r in result.rollouts.values() for name in ("energy", "centroid", "error"))
    rows = [
        ("Changed words heard within two blocks", ">= 90%", f"{heard:.1%}", heard >= 0.9),
        ("Morphs at 0.5 that lie between their ends", "all", f"{between:.0%}", between == 1),
        ("Jam: note and beat agreement, largest p", "< 0.01", f"{p:.4f}", p < 0.01),
        ("Drift over the rollouts (energy, centroid, error), worst", "<= 1.0 dB", f"{worst:.2f} dB", worst <= 1.0),
    ]
    return table(("", "asked", "measured", "met"), [(name, asked, got, "yes" if met else "**no**") for name, asked, got, met in rows])


def changes(result: Uses) -> str:
    rows = [[f"{c.before} to {c.after}", number(c.heard), number(c.steady)] for c in result.changes]
    return table(("words", "new instrument heard", "had it been asked for from the start"), rows)


def morphs(result: Uses) -> str:
    rows = [[f"{m.first} to {m.second}", *map(number, m.places)] for m in result.morphs]
    return table(("prompts", "morph 0", "0.25", "0.5", "0.75", "1"), rows)


def strays(result: Uses) -> str:
    return table(("stray", "note-F, player", "timbre"), [[f"{s.share:.2f}", number(s.note_f), number(s.timbre)] for s in result.strays])


def jams(result: Uses) -> str:
    rows = []
    for j in result.jams:
        values = [number(v) for v in (j.notes, j.notes_shuffled)] + [f"{j.notes_p:.4f}"]
        values += [number(v) for v in (j.beat, j.beat_shuffled)] + [f"{j.beat_p:.4f}"]
        rows.append([j.companion, f"{j.visible:+d}" if j.visible else "0", str(j.pairs), *values])
    return table(("companion", "blocks ahead", "pairs", "notes", "shuffled", "p", "beat", "shuffled", "p"), rows)


def rollouts(result: Uses) -> str:
    rows = []
    for name, rollout in result.rollouts.items():
        change = drift(rollout)
        rows.append([name, *(f"{change[m]:+.2f}" for m in ("level", "energy", "centroid", "error")), number(scatter(rollout))])
    head = ("", "level, dB", "energy, dB", "centroid, dB", "error, dB", "scatter of energy, dB")
    return table(head, rows)


METHOD = """\
- **Changed words**: the prompt changes at block 14; counted are the one-second windows that begin two blocks later and in which the new
  instrument truly sounds; the same judge of timbre as in evaluation.md.
- **Morphs**: mean features of the judge, as a place on the straight line between the two unmixed answers: 0 is the first, 1 the second.
- **Straying** at 1 has no sketch: the engine plays freely, so following is not to be expected.
- **Jamming**: *notes* is the share of the companion's pitch classes that the partner sounded within the last second (drums have none that
  mean anything); *beat* the correlation of onset envelopes within 46 ms. *Shuffled* is the same companion beside every other
  partner; p from 10,000 random pairings. *Blocks ahead*: how much of the partner's future is known to the block being made; a pedal
  plays at -1.
- **Rollouts**: 30 seconds over and over; frozen after the first 30; or fed back at 70 % two blocks late. Figures are the change from the
  first minute to the last of a straight line through the minutes; scatter is the largest distance from that line.
"""


def markdown(result: Uses) -> str:
    sections = (
        ("What is asked of it", goals(result)),
        ("Changed words", changes(result)),
        ("Morphs", morphs(result) + "\n![](uses.png)\n"),
        ("Straying", strays(result)),
        ("Jamming", jams(result)),
        ("Long rollouts", rollouts(result)),
        ("How it was measured", METHOD),
    )
    return f"# Other uses\n\n`{result.command}`\n" + "".join(f"\n## {title}\n\n{body}" for title, body in sections)


def picture(result: Uses, path: Path) -> None:
    """Morphs, straying, and the energy of the long rollouts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for morph in result.morphs:
        left.plot((0, 0.25, 0.5, 0.75, 1), morph.places, marker="o", alpha=0.7)
    left.set(title="morph: place between the two sounds", xlabel="morph", ylim=(-0.2, 1.2))
    middle.plot([s.share for s in result.strays], [s.note_f for s in result.strays], marker="o", label="note-F against the player")
    middle.plot([s.share for s in result.strays], [s.timbre for s in result.strays], marker="o", label="timbre")
    middle.set(title="straying", xlabel="stray", ylim=(0, 1))
    middle.legend(frameon=False)
    for name, rollout in result.rollouts.items():
        right.plot(range(1, len(rollout) + 1), [m.energy_db - rollout[0].energy_db for m in rollout], label=name)
    right.set(title="energy against minute 1, dB", xlabel="minute", ylim=(-6, 6))
    right.legend(frameon=False, fontsize=6)
    figure.savefig(path, dpi=72)


def write(result: Uses, folder: Path) -> list[Path]:
    """Write uses.md, uses.json and uses.png into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"uses.{suffix}" for suffix in ("md", "json", "png")]
    facts: dict[str, Any] = {**asdict(result), "drift": {name: drift(rollout) for name, rollout in result.rollouts.items()}}
    paths[0].write_text(markdown(result))
    paths[1].write_text(json.dumps(facts, indent=1) + "\n")
    picture(result, paths[2])
    return paths
