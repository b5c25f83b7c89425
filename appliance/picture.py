"""One picture of a session: dry and wet on one time axis, and when each block was answered against when it was due.

Needs matplotlib (extra `demo`), which is imported only when something is drawn. Runs in: the main process, after the music.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.report import Report
from appliance.stats import BlockMode, Rows, answered
from hw.audio import Frames

Array = NDArray[np.float32]

INK, QUIET, GRID = "#1c2430", "#6b7785", "#dfe4ea"
DRY, WET, GOOD, BAD = "#b3541e", "#2456a6", "#4f9d69", "#c9302c"
LOWEST_HZ, HIGHEST_HZ, BANDS = 60.0, 12_000.0, 240
RANGE_DB = 75.0
_FFT, _HOP = 4_096, 512
_TICKS_HZ = (100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class PictureError(Exception):
    """matplotlib is not installed."""


@contextmanager
def canvas() -> Iterator[Any]:
    """matplotlib's pyplot in the style of all our pictures. Raises PictureError where matplotlib is missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise PictureError("no picture: matplotlib is not installed (pip install 'ghostnote[demo]')") from None
    with pyplot.rc_context(_style()):
        yield pyplot


def draw(path: Path, report: Report, dry: Frames, wet: Frames, rows: Rows) -> None:
    """Write the picture as PNG. Raises PictureError where matplotlib is missing."""
    with canvas() as pyplot:
        figure, axes = pyplot.subplots(
            5, 1, figsize=(14, 12.5), sharex=True, height_ratios=[0.8, 2, 0.8, 2, 1.6], layout="constrained", facecolor="white"
        )
        seconds = len(dry) / report.sample_rate
        _title(figure, report)
        _waveform(axes[0], dry.mean(1) if dry.ndim == 2 else dry, report.sample_rate, DRY, "Guitar (dry)")
        _spectrogram(axes[1], dry.mean(1) if dry.ndim == 2 else dry, report.sample_rate, seconds, "Oranges")
        _waveform(axes[2], wet, report.sample_rate, WET, f"Answer (wet): “{report.prompt}”, {report.delay_ms:.0f} ms later")
        _spectrogram(axes[3], wet, report.sample_rate, seconds, "Blues")
        _deadlines(axes[4], report, rows)
        axes[4].set_xlim(0, seconds)
        axes[4].set_xlabel("time (s)")
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _style() -> dict[str, Any]:
    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    return {
        **colours,
        "font.size": 10,
        "font.family": "DejaVu Sans",
        "axes.edgecolor": QUIET,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 5,
        "grid.color": GRID,
    }


def _title(figure: Any, report: Report) -> None:
    compute, slack = report.block_compute_ms["p50"], report.slack_ms["min"]
    facts = [
        f"{report.blocks} blocks of {report.block_ms:.0f} ms",
        f"{report.late_blocks} late",
        f"compute {compute:.0f} ms (median)" if compute is not None else "never answered",
        f"least slack {slack:.0f} ms" if slack is not None else "",
        f"{report.silent_frames} silent frames",
        f"{report.xruns} xruns",
    ]
    figure.suptitle(f"Ghostnote · engine “{report.engine}”\n", fontsize=15, fontweight="bold", x=0.01, ha="left")
    figure.text(0.012, 0.972, "   ·   ".join(filter(None, facts)), ha="left", va="top", fontsize=10, color=QUIET)


def _waveform(axis: Any, samples: Array, rate: int, colour: str, title: str) -> None:
    """The envelope: smallest and largest sample of each of some thousand columns, on a scale of its own."""
    columns = min(3_000, max(1, len(samples) // 2))
    each = max(1, len(samples) // columns)
    cut = samples[: len(samples) // each * each].reshape(-1, each)
    seconds = np.arange(len(cut)) * each / rate
    axis.fill_between(seconds, cut.min(1), cut.max(1), color=colour, linewidth=0.3)
    peak = max(0.05, float(np.abs(samples).max(initial=0.0)) * 1.08)
    axis.set_ylim(-peak, peak)
    axis.set_title(title, color=colour)
    axis.set_ylabel("level")
    axis.grid(axis="x")
    axis.set_axisbelow(True)


def spectrogram_db(samples: Array, rate: int) -> Array:
    """(BANDS, time): level in dB below the loudest, on a logarithmic frequency axis."""
    padded = np.pad(samples, (_FFT // 2, _FFT))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]
    power = np.stack([np.abs(np.fft.rfft(one * np.hanning(_FFT))) ** 2 for one in windows], 1)
    bins = np.geomspace(LOWEST_HZ, HIGHEST_HZ, BANDS) * _FFT / rate
    low = bins.astype(np.int64)
    part = (bins - low)[:, None]
    bands = (1 - part) * power[low] + part * power[low + 1]
    decibels = 10 * np.log10(np.maximum(bands, 1e-10))
    return np.asarray(np.maximum(decibels - decibels.max(), -RANGE_DB), np.float32)


def _spectrogram(axis: Any, samples: Array, rate: int, seconds: float, colours: str) -> None:
    axis.imshow(
        spectrogram_db(samples, rate),
        origin="lower",
        aspect="auto",
        extent=(0, seconds, 0, BANDS),
        cmap=colours,
        vmin=-RANGE_DB,
        vmax=0,
        interpolation="bilinear",
    )
    octaves = np.log(HIGHEST_HZ / LOWEST_HZ)
    axis.set_yticks([BANDS * np.log(hz / LOWEST_HZ) / octaves for hz in _TICKS_HZ])
    axis.set_yticklabels([f"{hz // 1000} k" if hz >= 1000 else str(hz) for hz in _TICKS_HZ])
    axis.set_ylabel("frequency (Hz)")


def _deadlines(axis: Any, report: Report, rows: Rows) -> None:
    """A bar per block, from the moment when it was whole to its answer; the line above is when the answer was due."""
    width = 0.8 * report.block_ms / 1000
    done = answered(rows)
    written_ms, due_ms = (done["written"] - done["captured"]) / 1e6, (done["due"] - done["captured"]) / 1e6
    at = _whole_at(done, report)
    late = written_ms > due_ms
    axis.bar(at[~late], written_ms[~late], width, color=GOOD, label="answered on time")
    if late.any():
        axis.bar(at[late], written_ms[late], width, color=BAD, label="answered late")
    missed = rows[(rows["mode"] == BlockMode.PREFILLED) | ((rows["mode"] == BlockMode.CAPTURED) & (rows["start"] < _last(rows)))]
    if len(missed):
        axis.scatter(_whole_at(missed, report), np.zeros(len(missed)), marker="x", color=BAD, label="not answered", zorder=3, clip_on=False)
    if len(rows):
        axis.step(_whole_at(rows, report), (rows["due"] - rows["captured"]) / 1e6, where="mid", color=INK, linewidth=1.6, label="deadline")
        highest = float(max([((rows["due"] - rows["captured"]) / 1e6).max(), *written_ms]))
        axis.set_ylim(0, 1.45 * max(highest, 1.0))
    axis.set_title("Each block: when it was answered, and when its answer was due (what lies between is slack)")
    axis.set_ylabel("ms after the block")
    axis.grid(axis="y")
    axis.set_axisbelow(True)
    axis.legend(loc="upper right", ncols=4, frameon=False)


def _last(rows: Rows) -> int:
    return int(rows["start"].max(initial=0))


def _whole_at(rows: Rows, report: Report) -> NDArray[np.float64]:
    return np.asarray((rows["start"] + report.block_frames) / report.sample_rate, np.float64)
