"""The evaluation of the other uses as a page, a picture and JSON. Runs in: evaluation."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from engines.train import metrics
from engines.train.report import drifts
from engines.train.tables import Goal, bounds, goal_table, number, rounded, table

if TYPE_CHECKING:
    from engines.train.uses import Change, Uses

MIDDLE = 2  # of the morphs: 0.5
ALL, TRUE = "all", "true accompaniment"  # beside the names of single companions


def heard(changes: Sequence[Change], seed: int) -> metrics.Interval:
    """Share of the changes after which the new instrument is heard, over scores."""
    groups: dict[str, list[float]] = defaultdict(list)
    for change in changes:
        groups[change.score].append(float(change.first == change.after))
    return metrics.interval(groups, seed)


def settled(changes: Sequence[Change], seed: int) -> metrics.Interval:
    """Share of the seconds after that in which it is heard: what could be hoped for."""
    groups: dict[str, list[float]] = defaultdict(list)
    for change in changes:
        groups[change.score] += [] if math.isnan(change.later) else [change.later]
    return metrics.interval(groups, seed)


def goals(result: Uses) -> list[Goal]:
    """What is asked of the other uses."""
    between = [float(morph.between) for morph in result.morphs]
    found = [Goal.at_least("Changed words heard within two blocks", 0.90, heard(result.changes, result.seed).mean, "%")]
    found.append(Goal.at_least("Morphs at 0.5 that lie between their ends", 1.0, sum(between) / max(1, len(between)), "%"))
    for jam in (jam for jam in result.jams if jam.companion == ALL):
        for name, p in (("notes", jam.notes_p), ("beat", jam.beat_p)):
            found.append(Goal(f"Jam, {jam.visible} blocks ahead: {name} agree, p", "< 0.01", f"{p:.4f}", p < 0.01))
    for way in dict.fromkeys(name.split(", ")[-1] for name in result.rollouts):
        long = [metrics.mean_take(takes) for name, takes in result.rollouts.items() if name.endswith(way)]
        worst, minutes = max(metrics.drift(one).worst for one in long), max(map(len, long))
        found.append(Goal.at_most(f"Drift over {minutes} minutes {way}: energy, centroid, error, worst", 1.0, worst, "dB"))
    return found


def changes(result: Uses) -> str:
    """By the instrument that is asked for."""
    by_name: dict[str, list[Change]] = {f"**all {len(result.changes)}**": result.changes}
    for change in result.changes:
        by_name.setdefault(change.after, []).append(change)
    rows = []
    for name, those in ((name, those) for name, those in by_name.items() if those):
        old, guitar = (sum(flags) / len(those) for flags in ([c.first == c.before for c in those], [c.first == "guitar" for c in those]))
        rows.append([name, str(len(those)), *(bounds(one(those, result.seed)) for one in (heard, settled)), number(old), number(guitar)])
    head = ("changed to", "changes", "new instrument heard", "in the seconds after that", "still the old one", "a guitar")
    return table(head, rows)


def morphs(result: Uses) -> str:
    rows = [[f"{m.first} to {m.second}", *map(number, m.places), number(m.aside), "yes" if m.between else "**no**"] for m in result.morphs]
    means = metrics.interval({m.score: [o.places[MIDDLE] for o in result.morphs if o.score == m.score] for m in result.morphs}, result.seed)
    head = ("prompts", "morph 0", "0.25", "0.5", "0.75", "1", "aside at 0.5", "between")
    return f"Place at 0.5, mean: {bounds(means)}.\n\n" + table(head, rows)


def strays(result: Uses) -> str:
    return table(("stray", "note-F, player", "timbre"), [[f"{s.share:.2f}", number(s.note_f), number(s.timbre)] for s in result.strays])


def jams(result: Uses) -> str:
    rows = []
    for j in result.jams:
        values = [number(v) for v in (j.notes, j.notes_shuffled)] + [number(j.notes_p, 4)]
        values += [number(v) for v in (j.beat, j.beat_shuffled)] + [number(j.beat_p, 4)]
        name = "**all**" if j.companion == ALL else j.companion
        rows.append([name, "all" if j.companion == TRUE else f"{j.visible:+d}" if j.visible else "0", str(j.pairs), *values])
    return table(("companion", "blocks ahead", "pairs", "notes", "shuffled", "p", "beat", "shuffled", "p"), rows)


def rollouts(result: Uses) -> str:
    """The drift of the mean minute, and of each take by itself."""
    singly = [[name, ", ".join(number(metrics.drift(take).worst) for take in takes)] for name, takes in result.rollouts.items()]
    mean = drifts({name: metrics.mean_take(takes) for name, takes in result.rollouts.items()})
    return mean + "\n" + table(("each take by itself", "worst of energy, centroid and error, dB"), singly)


METHOD = """\
- **Changed words**: unseen scores are played through, and every 17 blocks (6.3 s) the words change to another instrument; the
  context is then full of the old one. Judged is the one second that begins two blocks after a change, if the new instrument sounds
  then in its true rendering, by the judge of timbre of evaluation.md. The seconds after that, up to the next change, show what it
  would say of this engine with time enough.
- **Morphs**: mean of the judge's embedding (its 64 hidden units, as for Fréchet distances) over the seconds in which the guitar sounds, as
  a place on the straight line between the two unmixed answers: 0 is the first, 1 the second; *aside* is the distance from that line,
  as a share of its length. *Between*: at 0.5 nearer to either end than the ends are to each other.
- **Straying** at 1 has no sketch: the engine plays freely, so following is not to be expected.
- **Jamming**: *notes* is the share of the companion's pitch classes that the partner sounded within the last second (drums have none that
  mean anything); *beat* the correlation of onset envelopes within 46 ms; both are means of takes (three, or as the command says) that
  differ in their noise only. *Shuffled* is the same companion beside every other partner; p from 10,000 random pairings of partners. No
  two partners play the same score; the first six are the guitars of bands, the others play alone. *All* shuffles the companions of a
  partner together; the true accompaniment of the bands says what can be reached. *Blocks ahead*: how much of the partner's future is
  known to the block being made; a pedal plays at -1.
- **Rollouts**: 30 seconds over and over: frozen after the first 30, when the last 15 blocks that were heard go round; or the answer fed
  back at 70 %, two blocks late, as a pedal does. The first 30 seconds are not counted. *Error* is log-mel distance from the true
  target: of what went round, while frozen; with all its echoes, with repeats. Drift as in evaluation.md, of the mean minute of takes (nine,
  or one with `--quick`) that differ in their noise only: minutes of one take scatter so much that a straight line through ten of them
  slopes by chance.
"""


def markdown(result: Uses) -> str:
    sections = (
        ("What is asked of it", goal_table(goals(result))),
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
    for name, takes in result.rollouts.items():
        rollout = metrics.mean_take(takes)
        right.plot(range(1, len(rollout) + 1), [m.energy_db - rollout[0].energy_db for m in rollout], label=name)
    right.set(title="energy against minute 1, dB", xlabel="minute", ylim=(-6, 6))
    if result.rollouts:
        right.legend(frameon=False, fontsize=6)
    figure.savefig(path, dpi=72)


def write(result: Uses, folder: Path) -> list[Path]:
    """Write uses.md, uses.json and uses.png into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"uses.{suffix}" for suffix in ("md", "json", "png")]
    facts = {
        **asdict(result), "goals": [asdict(goal) for goal in goals(result)],
        "drift": {name: asdict(metrics.drift(metrics.mean_take(takes))) for name, takes in result.rollouts.items()},
    }
    paths[0].write_text(markdown(result))
    paths[1].write_text(json.dumps(rounded(facts), indent=1) + "\n")
    picture(result, paths[2])
    return paths
