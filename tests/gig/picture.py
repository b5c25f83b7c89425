"""The set as one picture: what was inflicted, who was heard, how much time the engine's blocks left, and what the governor did."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.gig.gig import Gig
from tests.gig.score import SWITCHES
from tests.gig.verdict import Verdict

INK, SOFT = "#2b2b2b", "#8a8a8a"
GREEN, BLUE, RED, AMBER, VIOLET = "#3a7d44", "#3b6ea5", "#b3392f", "#d18f1f", "#7b4fa3"
LANES = {"card": RED, "audio": AMBER, "engine": VIOLET, "heat": RED, "board": BLUE, "garbage": BLUE, "flood": BLUE, "main": INK}
ROWS = ("main", "engine", "audio", "card", "board")


def draw(verdict: Verdict, title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    gig = verdict.gig
    unit, name = (60.0, "minutes") if gig.score.seconds <= 3_600 else (3_600.0, "hours")
    figure, axes = plt.subplots(4, 1, figsize=(12, 8), sharex=True, height_ratios=[1.5, 1, 2, 0.8], layout="constrained")
    _faults(axes[0], verdict, unit)
    _heard(axes[1], gig, unit)
    _slack(axes[2], gig, unit)
    _limit(axes[3], gig, unit)
    axes[-1].set_xlabel(f"{name} of virtual time")
    axes[-1].set_xlim(0, gig.score.seconds / unit)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, colors=INK)
    figure.suptitle(title, fontsize=12, color=INK, x=0.01, ha="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _say(axis, text: str) -> None:  # type: ignore[no-untyped-def]
    axis.set_title(text, fontsize=9, loc="left", color=SOFT)


def _faults(axis, verdict: Verdict, unit: float) -> None:  # type: ignore[no-untyped-def]
    for fault in verdict.faults:
        word = fault.kind.name.split()[0]
        switch = fault.kind.name in SWITCHES
        row = {"new": "engine", "heat": "engine", "garbage": "board", "flood": "board"}.get(word, word)
        mark, colour = ("D", GREEN if fault.kind.name == "engine switch" else AMBER) if switch else ("|", LANES[word])
        axis.plot([fault.at / unit], [ROWS.index(row)], mark, color=colour, markersize=5 if mark == "D" else 13, markeredgewidth=1.6)
        if fault.seconds > 1 and not switch:
            axis.hlines(ROWS.index(row), fault.at / unit, (fault.at + fault.seconds) / unit, color=colour, linewidth=5, alpha=0.5)
    for ns in verdict.gig.tape.long_waits:
        axis.plot([(ns - verdict.gig.began_ns) / 1e9 / unit], [ROWS.index("audio")], "x", color=SOFT, markersize=4)
    axis.set_yticks(range(len(ROWS)), ROWS)
    axis.set_ylim(-0.6, len(ROWS) - 0.4)
    _say(axis, "inflicted (a green diamond is an engine switch, an amber one that must fail; a cross a stall that was recorded)")


def _heard(axis, gig: Gig, unit: float) -> None:  # type: ignore[no-untyped-def]
    bins = np.linspace(0, gig.score.seconds, 400)
    at = np.array([row[0] for row in gig.track.heard])
    place = np.digitize(at, bins)
    rows = np.array([[row[1], row[2]] for row in gig.track.heard])
    shares = np.array([rows[place == n].mean(0) if np.any(place == n) else [0, 0] for n in range(1, len(bins))])
    middle = (bins[1:] + bins[:-1]) / 2 / unit
    axis.stackplot(middle, shares[:, 0], shares[:, 1], colors=[GREEN, BLUE], step="mid", linewidth=0)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 1], ["0 %", "100 %"])
    _say(axis, "heard on the wet bus: engine (green), plain delay (blue), nothing to be heard (white)")


def _slack(axis, gig: Gig, unit: float) -> None:  # type: ignore[no-untyped-def]
    slack = np.array(gig.track.slack_ms)
    late = slack[:, 1] < 0
    axis.plot(slack[~late, 0] / unit, slack[~late, 1], ".", color=GREEN, markersize=1.5, rasterized=True)
    axis.plot(slack[late, 0] / unit, slack[late, 1], ".", color=RED, markersize=4)
    axis.axhline(0, color=RED, linewidth=0.8)
    axis.set_yscale("symlog", linthresh=100)
    axis.set_ylabel("ms")
    _say(axis, "slack of each block that was answered (below the line: too late, the plain delay stood in)")


def _limit(axis, gig: Gig, unit: float) -> None:  # type: ignore[no-untyped-def]
    at = [0.0, *(at for at, _ in gig.track.limit), gig.score.seconds]
    limits = [4, *(limit or 4 for _, limit in gig.track.limit)]
    axis.stairs(limits, np.array(at) / unit, color=AMBER, fill=True, alpha=0.6, baseline=0)
    axis.set_ylim(0, 4.4)
    axis.set_yticks([0, 2, 4])
    _say(axis, "denoising steps that the governor allows")
