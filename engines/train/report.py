"""The evaluation as a page: tables, a picture, and the same as JSON for machines.

Runs in: evaluation.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from engines.engine import EngineSpec
from engines.lmdm import codec
from engines.train import metrics
from engines.train.tables import Goal, bounds, goal_table, number, rounded, table

UNSEEN = "engine, unseen wording"
TRANSCRIBED = "what was heard, played by the instrument"
SYSTEMS = (
    "engine", UNSEEN, "true target", "true target through the codec", "copy of the input", "mean spectrum", "shuffled conditioning",
)
PICTURE_LATENTS = 215  # ten seconds
REAL_GUITAR = "real"  # splits of recordings are this, a comma and their kind
SILENT_DBFS = -60.0  # loudest second of an answer that counts as silence


@dataclass(frozen=True)
class Row:
    """One signal, judged. What can't be known is NaN."""

    split: str
    score: str
    instrument: str
    guitar: str
    system: str
    note_player: float  # note-F against the player
    note_target: float  # note-F against the true target
    timbre: float  # share of the active windows that sound like the instrument asked for
    mel_db: float  # log-mel distance from the true target


def by_score(rows: Iterable[Row], measure: str, **where: str) -> dict[str, list[float]]:
    """Values of `measure` of the rows that match, by score; what is not known is left out."""
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if all(getattr(row, name) == value for name, value in where.items()) and not math.isnan(getattr(row, measure)):
            groups[row.score].append(getattr(row, measure))
    return groups


@dataclass(frozen=True)
class Silence:
    """Level of the loudest second while nothing is played."""

    instrument: str
    fresh_db: float  # from the start
    after_music_db: float  # well after having played


@dataclass(frozen=True)
class Example:
    """What the picture shows: stacked log-mel (T, 512) of one clip."""

    guitar: str
    instrument: str
    player: Tensor
    answer: Tensor
    truth: Tensor


@dataclass
class Evaluation:
    """Everything that was measured."""

    address: str
    spec: EngineSpec
    steps: int
    seed: int
    command: str
    judge_accuracy: float  # on true renderings of unseen scores
    judge_accuracy_cross: float  # ... on another bank
    rows: list[Row] = field(default_factory=list)
    drift: dict[str, list[metrics.Minute]] = field(default_factory=dict)
    silence: list[Silence] = field(default_factory=list)
    block_ms: list[float] = field(default_factory=list)
    frechet: dict[tuple[str, str], float] = field(default_factory=dict)  # by split and system, against the true targets
    example: Example | None = None

    def values(self, split: str, system: str, measure: str, **where: str) -> metrics.Interval:
        """Mean of `measure` over scores, of the rows that match."""
        return metrics.interval(by_score(self.rows, measure, split=split, system=system, **where), self.seed)

    def note_share(self, split: str = "val") -> float:
        """The engine's note-F against the player, as a share of what the true target reaches."""
        true = self.values(split, "true target", "note_player").mean
        return self.values(split, "engine", "note_player").mean / true if true else math.nan

    def weakest(self) -> tuple[str, float]:
        """The instrument that is recognised least, and how often."""
        names = dict.fromkeys(row.instrument for row in self.rows if row.split == "val")
        found = {name: self.values("val", "engine", "timbre", instrument=name).mean for name in names}
        return min(found.items(), key=lambda item: item[1], default=("", math.nan))

    def drift_db(self) -> float:
        return max((metrics.drift(rollout).worst for rollout in self.drift.values()), default=math.nan)

    def loudest_silence_db(self) -> float:
        return max((max(row.fresh_db, row.after_music_db) for row in self.silence), default=math.nan)


def goals(result: Evaluation) -> list[Goal]:
    """What is asked of an engine, and what this run measured."""
    (name, weakest), clean = result.weakest(), f"{REAL_GUITAR}, clean"
    mean = lambda split, measure, system="engine": result.values(split, system, measure).mean  # noqa: E731
    minutes = max((len(rollout) for rollout in result.drift.values()), default=0)
    at_least, at_most = Goal.at_least, Goal.at_most
    return [
        at_least("Requested timbre recognised, unseen scores", 0.93, mean("val", "timbre"), "%"),
        at_least(f"... of each instrument; the least is {name}", 0.80, weakest, "%"),
        at_least("Note-F against the player, as a share of the true targets'", 0.90, result.note_share()),
        at_least("Timbre on the bank that was never trained on", 0.85, mean("cross", "timbre"), "%"),
        at_least("Note-F on that bank, as a share of the true targets'", 0.80, result.note_share("cross")),
        at_least("Timbre, real clean guitar", 0.85, mean(clean, "timbre"), "%"),
        at_least("Note-F against the player, real clean guitar", 0.70, mean(clean, "note_player")),
        at_least("Timbre, asked for in words held out from training", 0.85, mean("val", "timbre", UNSEEN), "%"),
        at_most(f"Drift over {minutes} minutes with input: energy, centroid, error, worst", 1.0, result.drift_db(), "dB"),
        at_most("Silence in, silence out: loudest second", SILENT_DBFS, result.loudest_silence_db(), "dBFS"),
    ]


def systems(result: Evaluation, split: str) -> str:
    """Engine, ceilings and baselines on one split."""
    measures = ("note_player", "note_target", "timbre", "mel_db")
    rows = []
    for system in SYSTEMS:
        values = [result.values(split, system, measure) for measure in measures]
        if not all(math.isnan(value.mean) for value in values):
            rows.append([system, *map(bounds, values), number(result.frechet.get((split, system), math.nan), 1)])
    return table(("", "note-F, player", "note-F, target", "timbre", "log-mel dB", "Fréchet distance"), rows)


def instruments(result: Evaluation, split: str) -> str:
    rows = []
    for name in dict.fromkeys(row.instrument for row in result.rows if row.split == split):
        engine = [result.values(split, "engine", m, instrument=name).mean for m in ("note_player", "note_target", "timbre", "mel_db")]
        true = [result.values(split, "true target", m, instrument=name).mean for m in ("note_player", "timbre")]
        rows.append([name, *map(number, engine), *map(number, true)])
    head = ("asked for", "note-F, player", "note-F, target", "timbre", "log-mel dB", "true: note-F, player", "true: timbre")
    return table(head, rows)


def guitars(result: Evaluation) -> str:
    rows = []
    for name in dict.fromkeys(row.guitar for row in result.rows if row.split == "val"):
        values = [result.values("val", "engine", m, guitar=name).mean for m in ("note_player", "timbre", "mel_db")]
        true = result.values("val", "true target", "note_player", guitar=name).mean
        rows.append([name, *map(number, values), number(true)])
    return table(("played on", "note-F, player", "timbre", "log-mel dB", "true: note-F, player"), rows)


def real(result: Evaluation) -> str:
    """Real guitars, by kind and then one by one."""
    kinds = sorted({row.split for row in result.rows if row.split.startswith(REAL_GUITAR)})
    columns = (("engine", "note_player"), ("engine", "timbre"), (TRANSCRIBED, "note_player"))
    rows = [[f"**{k}**", "", *(bounds(result.values(k, *column)) for column in columns)] for k in kinds]
    for kind in kinds:
        for name in dict.fromkeys(row.score for row in result.rows if row.split == kind):
            asked = dict.fromkeys(row.instrument for row in result.rows if (row.split, row.score, row.system) == (kind, name, "engine"))
            rows.append([name, ", ".join(asked), *(number(result.values(kind, *column, score=name).mean) for column in columns)])
    return table(("recording", "asked for", "note-F, player", "timbre", "transcribed: note-F, player"), rows)


def drift(result: Evaluation) -> str:
    rows = []
    for name, rollout in result.drift.items():
        for index, minute in enumerate(rollout):
            change = minute.level_db - rollout[0].level_db
            energy = minute.energy_db - rollout[0].energy_db
            row = (f"{change:+.2f}", f"{energy:+.2f}", f"{minute.centroid_hz:.0f}", number(minute.error_db))
            rows.append([f"{name}, minute {index + 1}", *row])
    head = ("", "mean log-mel against minute 1, dB", "energy against minute 1, dB", "centroid, Hz", "log-mel dB from true target")
    return drifts(result.drift) + "\n" + table(head, rows)


def drifts(rollouts: Mapping[str, Sequence[metrics.Minute]]) -> str:
    """How long rollouts change."""
    rows = []
    for name, rollout in rollouts.items():
        drift = metrics.drift(rollout)
        changes = (f"{one:+.2f}" for one in (drift.level, drift.energy, drift.centroid, drift.error))
        rows.append([name, *changes, number(drift.scatter)])
    return table(("change from first to last minute", "mean log-mel, dB", "energy, dB", "centroid, dB", "error, dB", "scatter, dB"), rows)


def silences(result: Evaluation) -> str:
    return table(("asked for", "from the start, dBFS", "after music, dBFS"), [
        [row.instrument, number(row.fresh_db, 0), number(row.after_music_db, 0)] for row in result.silence
    ])


def cost(result: Evaluation) -> str:
    if not result.block_ms:
        return ""
    p50, p99 = np.percentile(result.block_ms, [50, 99])
    block_ms = 1000 * result.spec.block_frames / result.spec.sample_rate
    return (
        f"{len(result.block_ms):,} blocks of {block_ms:.0f} ms were played; each took {p50:.1f} ms of CPU time on one thread "
        f"(median; p99 {p99:.1f} ms = {p99 / block_ms:.0%} of the block), on a machine that did other work meanwhile.\n"
    )


METHOD = """\
- **note-F**: frame-wise F-measure of the notes that basic-pitch hears (activation > 0.4), after the delay is taken off. Against the
  player it says how well the engine follows; the true target's own value is the ceiling, because other instruments ring otherwise.
- **Real guitar** and **drift**: means of takes (three, or one with `--quick`) that differ in their noise only: with so few recordings one
  take's timbre may be off by 3 points, and a straight line through the minutes of one take slopes by chance.
- **transcribed**: of a real guitar nobody knows the true target. Here each note that basic-pitch hears of it is played by the
  instrument's soundfont, from where it is heard to where it ends: what an answer could reach that follows without a mistake.
- **timbre**: a small classifier on one-second windows of codec latents, trained on true renderings of the training scores only; all
  instruments that can be asked for and "guitar". Only windows in which the true target (or the real guitar) sounds are counted.
- **log-mel dB**: mean absolute difference from the true target. It rewards the average of all plausible answers, so it never ranks
  engines or step counts by itself.
- **drift**: the same 30 seconds are played over and over. Counted is the change from the first minute to the last of a straight line
  through the minutes: of energy (mean square of the mel magnitudes), of their centroid (in dB: 6 dB an octave), and of the
  log-mel distance from the true target. Mean log-mel counts every band and every rest alike. Scatter is the largest distance of a
  minute's energy from its line; a minute differs from another by so much because noise does. Freezing and repeats: uses.md.
- **Silence**: 20 seconds of nothing, from the start and after ten seconds of music (of those, the second half).
- Scores are unseen; *cross* is also another soundfont, for guitars and targets, on which the classifier itself is less sure.
- **Fréchet distance**: between normal distributions fitted to what the timbre judge makes of one-second windows of a system and of the true
  targets (its 64 hidden units: made for this judge, not comparable with figures from elsewhere).
- Brackets: 95 % bootstrap interval over scores (or recordings). Every input is brought to the same RMS level.
- *Shuffled conditioning* is the engine's answer to another score with the same prompt. *Mean spectrum* is the target instrument's mean
  log-mel, held; it has no notes.
- Not here: other engines, regression by a network of the same size among them, and other numbers of denoising steps
  (`python -m engines.train.compare`); the codec alone (`engines.train.codec_eval`); other uses (`engines.train.uses`); and
  listeners: nobody has rated this by ear.
"""


def markdown(result: Evaluation) -> str:
    spec = result.spec
    sections: list[tuple[str, str]] = [
        ("What is asked of it", goal_table(goals(result))),
        ("Unseen scores", systems(result, "val") + "\n![](evaluation.png)\n"),
        ("By instrument", instruments(result, "val")),
        ("By guitar", guitars(result)),
        ("Unseen scores on another soundfont", systems(result, "cross")),
        ("Real guitar", real(result)),
        ("Ten minutes" if len(next(iter(result.drift.values()), [])) == 10 else "Minutes on end", drift(result)),
        ("Silence in", silences(result)),
        ("Cost", cost(result)),
        ("How it was measured", METHOD),
    ]
    head = (
        f"# Evaluation: {spec.name}\n\n`{result.command}`\n\n"
        f"{result.steps} denoising steps per block of {spec.block_frames} frames, seed {result.seed}. "
        f"The timbre judge is right about {result.judge_accuracy:.1%} of true renderings of unseen scores, and about "
        f"{result.judge_accuracy_cross:.1%} of those on another soundfont.\n"
    )
    return head + "".join(f"\n## {title}\n\n{body}" for title, body in sections)


def picture(result: Evaluation, path: Path) -> None:
    """Bars by instrument, drift, and one clip as spectrograms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    _bars(axes[0, 0], result, "note_player", "note-F against the player")
    _bars(axes[0, 1], result, "timbre", "timbre")
    _drift_lines(axes[0, 2], result)
    if result.example:
        shown = result.example
        _spectrum(axes[1, 0], shown.player, f"played: {shown.guitar}")
        _spectrum(axes[1, 1], shown.answer, f"engine: {shown.instrument}")
        _spectrum(axes[1, 2], shown.truth, "true target")
    figure.savefig(path, dpi=72)


def _bars(axes: Any, result: Evaluation, measure: str, title: str) -> None:
    names = list(dict.fromkeys(row.instrument for row in result.rows if row.split == "val"))
    at = np.arange(len(names))
    for shift, system, colour in ((-0.2, "engine", "#2b6cb0"), (0.2, "true target", "#cbd5e0")):
        means = [result.values("val", system, measure, instrument=name).mean for name in names]
        axes.barh(at + shift, means, 0.4, label=system, color=colour)
    axes.set(title=title, xlim=(0, 1), yticks=at, yticklabels=names)
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False)


def _drift_lines(axes: Any, result: Evaluation) -> None:
    for name, rollout in result.drift.items():
        axes.plot(range(1, len(rollout) + 1), [m.level_db - rollout[0].level_db for m in rollout], marker="o", label=name)
    longest = max((len(rollout) for rollout in result.drift.values()), default=1)
    axes.set(title="level against minute 1, dB", xlabel="minute", ylim=(-3, 3), xticks=range(1, longest + 1))
    axes.legend(frameon=False)


def _spectrum(axes: Any, mel: Tensor, title: str) -> None:
    rows = mel[:PICTURE_LATENTS].unflatten(-1, (codec.STACK, codec.MELS)).flatten(0, 1).T.numpy()
    seconds = rows.shape[1] * codec.HOP_FRAMES / codec.SAMPLE_RATE
    axes.imshow(rows, origin="lower", aspect="auto", extent=(0, seconds, 0, codec.MELS), vmin=-2.2, vmax=2, cmap="magma")
    axes.set(title=title, xlabel="seconds", ylabel="mel band")


def as_json(result: Evaluation) -> str:
    facts = {
        "engine": result.address, "steps": result.steps, "seed": result.seed, "command": result.command, "spec": asdict(result.spec),
        "judge_accuracy": result.judge_accuracy, "judge_accuracy_cross": result.judge_accuracy_cross,
        "goals": [asdict(goal) for goal in goals(result)],
        "frechet": {f"{split}, {system}": value for (split, system), value in result.frechet.items()},
        "rows": [asdict(row) for row in result.rows],
        "drift": {name: [asdict(minute) for minute in rollout] for name, rollout in result.drift.items()},
        "silence": [asdict(row) for row in result.silence],
    }
    return json.dumps(rounded(facts), indent=1)


def write(result: Evaluation, folder: Path) -> list[Path]:
    """Write evaluation.md, .json and .png into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"evaluation.{suffix}" for suffix in ("md", "json", "png")]
    paths[0].write_text(markdown(result))
    paths[1].write_text(as_json(result) + "\n")
    picture(result, paths[2])
    return paths
