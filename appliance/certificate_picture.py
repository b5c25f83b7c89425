"""The picture of a deadline certificate, drawn from the certificate alone: block times against the deadline, slack and heat over the soak.

Needs matplotlib (extra `demo`). Runs in: `ghostnote certify`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from appliance.certificate import Certificate
from appliance.picture import BAD, DRY, GOOD, INK, QUIET, WET, canvas

ROOM = 1.12  # right of the deadline
LEAST_WIDTH = 0.004  # of the axis: one block must be seen
PERCENTS = {"p50": "median", "p99": "99 %", "p999": "99.9 %"}


def draw(path: Path, certificate: Certificate) -> None:
    """Write the picture as PNG. Raises PictureError where matplotlib is missing."""
    with canvas() as pyplot:
        hot = certificate.measured.celsius is not None
        heights = [2.2, 1.6, 1.0] if hot else [2.2, 1.6]
        size = (11, 2.2 + 1.7 * sum(heights))
        figure, axes = pyplot.subplots(len(heights), 1, figsize=size, height_ratios=heights, layout="constrained", facecolor="white")
        _title(figure, certificate)
        _histogram(axes[0], certificate)
        _slack(axes[1], certificate)
        if hot:
            _heat(axes[2], certificate)
        axes[-1].set_xlabel("minutes")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _title(figure: Any, certificate: Certificate) -> None:
    found, held = certificate.measured, certificate.conditions
    facts = [
        f"{found.blocks} blocks, {found.late} late",
        f"{found.steps_allowed} steps allowed",
        f"load {certificate.disturbance.name}",
        f"{held.backend} on {held.cpu}",
        certificate.made[:16].replace("T", " "),
    ]
    title = f"{certificate.verdict} · engine “{certificate.name}” {held.engine[:12]}\n"
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    figure.text(0.012, 0.962, "   ·   ".join(facts), ha="left", va="top", fontsize=10, color=QUIET)


def _histogram(axis: Any, certificate: Certificate) -> None:
    """Blocks by when they were answered. A bin is as wide as the histogram's."""
    found = certificate.measured
    due_ms = found.allowance_us / 1000
    most_ms = max(due_ms, found.block_answered["worst"] / 1000) * ROOM
    left = [least / 1000 for least, _ in found.answered_bins]
    count = [count for _, count in found.answered_bins]
    width = [max(at / 32, LEAST_WIDTH * most_ms) for at in left]
    axis.bar(left, count, width, align="edge", color=[BAD if at >= due_ms else GOOD for at in left])
    axis.set_yscale("log")
    axis.set_ylim(0.7, 3 * max([1.0, *count]))
    axis.set_xlim(0, most_ms)
    axis.axvline(due_ms, color=INK, linewidth=1.6)
    axis.annotate(f"due {due_ms:.0f} ms ", (due_ms, 0.96), xycoords=("data", "axes fraction"), ha="right", va="top", color=INK)
    for row, (name, label) in enumerate(PERCENTS.items()):
        at = found.block_answered[name] / 1000
        axis.axvline(at, color=WET, linewidth=1, linestyle=(0, (4, 2)))
        axis.annotate(f" {label} {at:.0f} ms", (at, 0.96 - 0.09 * row), xycoords=("data", "axes fraction"), va="top", color=WET, fontsize=9)
    axis.set_title("When blocks were answered, and when their answers were due")
    axis.set_xlabel("ms after the block")
    axis.set_ylabel("blocks")


def _slack(axis: Any, certificate: Certificate) -> None:
    course = certificate.measured.course
    minutes = np.array([seconds for seconds, _, _ in course]) / 60
    slack = np.array([least for _, least, _ in course])
    axis.fill_between(minutes, 0, slack, color=GOOD, alpha=0.25, step="pre", linewidth=0)
    axis.step(minutes, slack, where="pre", color=GOOD, linewidth=1.6)
    axis.axhline(certificate.least_slack_ms, color=BAD, linewidth=1, linestyle=(0, (4, 2)))
    axis.annotate(f"at least {certificate.least_slack_ms:.0f} ms", (0.995, certificate.least_slack_ms), xycoords=("axes fraction", "data"),
                  ha="right", va="bottom", color=BAD, fontsize=9)  # fmt: skip
    axis.set_ylim(min(0.0, float(slack.min(initial=0.0)) * 1.1), max(1.0, certificate.measured.allowance_us / 1000))
    axis.set_xlim(0, max([0.01, *minutes]))
    axis.set_title("Least slack: what was left until the answer was due")
    axis.set_ylabel("ms")
    axis.grid(axis="y")
    axis.set_axisbelow(True)


def _heat(axis: Any, certificate: Certificate) -> None:
    course = [(seconds / 60, heat) for seconds, _, heat in certificate.measured.course if heat is not None]
    axis.plot([minutes for minutes, _ in course], [heat for _, heat in course], color=DRY, linewidth=1.6)
    axis.set_xlim(0, max([0.01, *(minutes for minutes, _ in course)]))
    axis.set_title("Hottest sensor")
    axis.set_ylabel("°C")
    axis.grid(axis="y")
