"""What must be heard, computed anew from the dry input and the settings of each period, and compared with what was, sample by sample.

The rules, which share no code with what they judge:

    wet bus    a mean of the plain delay and of an engine's number times it, at a delay that was asked for within the last 70 ms
    output     dry gain * dry + wet gain * tone(wet bus); each gain goes to where the controls want it by 1/1024 a frame. While one engine
               takes over from another the wet may be up to 3 dB louder: that fade has equal power
    sent       feed gain * dry + repeats gain * tone(wet bus)

    silent     sound was due (more than -54 dBFS by these rules) and less than a quarter of it was there
    click      a step larger than that of what is heard, plus 1 % of full scale
    wrong      anything else that the rules do not give

Above -1 dBFS, where a limiter bends it, the output only has to be loud. Where an engine that has just been loaded is joined to its
predecessor's sound, and where an audio process died (1,024 frames each), the wet bus only has to be no louder than the rule has it. An
engine may have heard the end of a block before it was faded out because of such a death: its answer may end as abruptly.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from appliance.controls import Control
from tests.gig.engine import BLOCK, LEAST, RATE

Samples = NDArray[np.float32]
Numbers = NDArray[np.float64]
RAMP, TUNER_MUTE = 1_024, 2
DUE = 0.002
PARTS = 0.25
TOLERANCE = 3e-5
CLICK = 0.01
HISTORY = 8 * RATE
RECENT = 24  # periods in which a delay that was asked for may still be heard
LIMIT = 0.889
SOFT_FRAMES = 1_024
MOST_EXAMPLES = 8


@dataclass(frozen=True)
class Periods:
    """A row per period."""

    position: NDArray[np.int64]
    ns: NDArray[np.int64]
    controls: Numbers
    dry: Samples
    bus: Samples
    send: Samples
    out: Samples


@dataclass
class Findings:
    """Samples, all of them."""

    heard: int = 0
    due_dry: int = 0
    due_wet: int = 0
    silent: int = 0
    clicks: int = 0
    wrong_bus: int = 0
    wrong_send: int = 0
    wrong_out: int = 0
    soft: int = 0  # of the wet bus, judged by the weaker rule
    limited: int = 0
    largest_step: float = 0.0
    examples: list[str] = field(default_factory=list)

    def add(self, what: str, count: int, seconds: float, more: str = "") -> None:
        if count:
            setattr(self, what, getattr(self, what) + count)
            if len(self.examples) < MOST_EXAMPLES:
                self.examples.append(f"{what}: {count} samples at {seconds:.3f} s {more}")

    @property
    def faults(self) -> int:
        return self.silent + self.clicks + self.wrong_bus + self.wrong_send + self.wrong_out


@dataclass(frozen=True)
class Share:
    """Of a stretch of periods: which number the wet bus had, where it could be told."""

    ns: int
    numbers: NDArray[np.float32]  # one per period; nan: nothing sounds there
    steady: NDArray[np.bool_]
    controls: Numbers


class Slew:
    """A value that goes to its target by 1 / RAMP a frame."""

    def __init__(self, value: float) -> None:
        self.value = value

    def follow(self, targets: Numbers, frames: int) -> Numbers:
        if np.all(targets == self.value):
            return np.full((len(targets), frames), self.value)
        curve, ramp = np.empty((len(targets), frames)), np.arange(1, frames + 1) / RAMP
        for at, target in enumerate(targets):
            way = target - self.value
            curve[at] = self.value + np.sign(way) * np.minimum(ramp, abs(way))
            self.value = float(curve[at, -1])
        return curve


class Judge:
    """`begin` when an audio process starts, `hear` whenever there is something new. `on_share` learns which source was heard."""

    def __init__(self, shortest: int, longest_delay: int) -> None:
        self.findings, self._longest, self._shortest = Findings(), longest_delay, shortest
        self.on_share = lambda share: None
        self.begin(0, True)

    def begin(self, position: int, anew: bool) -> None:
        self._out_before: float | None = None
        self._low = 0.0
        self._turns = np.zeros(RECENT)
        if anew:
            self._sent, self._soft, self._delays = np.zeros(HISTORY, np.float32), [], np.zeros(0, np.int64)
            self._gains: list[Slew] | None = None
        else:
            level = float(np.abs(self._sent[-2 * SOFT_FRAMES :]).max())
            self._sent[-SOFT_FRAMES:] *= np.linspace(1, 0, SOFT_FRAMES, dtype=np.float32)
            self._soft = [*self._soft, (position - SOFT_FRAMES, position, level)]
            self._gains = [Slew(0.0) for _ in range(6)]
            self._delays = self._delays[:0]

    def join(self, place: int) -> None:
        """A new engine's first answer begins here."""
        self._soft = [*self._soft, (place - 1, place + SOFT_FRAMES, 0.0)]

    def hear(self, periods: Periods) -> None:
        frames = periods.dry.shape[1]
        dry, wet, feed, repeats, dark, thin = self._follow(periods, frames)
        tone = self._tone(periods.bus, dark, thin)
        self._judge_send(periods, feed * periods.dry + repeats * tone)
        low, high, step = self._hull(periods, frames)
        self._judge_bus(periods, low, high, wet > 0.05)
        least = dry * periods.dry + wet * tone
        most = dry * periods.dry + wet * tone * np.where(self._lifting(periods, frames), np.sqrt(2), 1.0)[:, None]
        self._judge_out(periods, np.minimum(least, most), np.maximum(least, most))
        self._judge_steps(periods, np.abs(dry).max(1), np.abs(wet).max(1), step)
        self.findings.heard += periods.out.size
        self.findings.due_dry += int(np.count_nonzero(np.abs(dry * periods.dry) > DUE))
        self._soft = [one for one in self._soft if one[1] > periods.position[-1] - HISTORY]

    # What is wanted

    def _follow(self, periods: Periods, frames: int) -> list[Numbers]:
        targets = _targets(periods.controls)
        if self._gains is None:
            self._gains = [Slew(float(column[0])) for column in targets]
        return [slew.follow(column, frames) for slew, column in zip(self._gains, targets, strict=True)]

    def _tone(self, bus: Samples, dark: Numbers, thin: Numbers) -> Numbers:
        """A one-pole low-pass at 900 Hz, within each period by a sum of what has decayed, from one to the next by what is left."""
        keeps = np.exp(-2 * np.pi * 900 / RATE)
        decay = keeps ** np.arange(1, bus.shape[1] + 1)
        low = decay * np.cumsum((1 - keeps) * bus / decay, axis=1)
        for row in low:
            row += decay * self._low
            self._low = row[-1]
        return np.asarray(bus - dark * (bus - low) - thin * low)

    def _hull(self, periods: Periods, frames: int) -> tuple[Numbers, Numbers, Numbers]:
        """Lowest and highest that the wet bus may be, its largest step by itself."""
        count = len(periods.position)
        jam = periods.controls[:, Control.JAM] >= 0.5
        asked = np.where(jam, 2 * BLOCK, periods.controls[:, Control.DELAY_FRAMES])
        delays = np.concatenate([self._delays, np.clip(asked, frames, self._longest).astype(np.int64)])
        first = len(self._delays)
        self._delays = delays[-RECENT:]
        sent = np.concatenate([self._sent, periods.send.ravel()])
        base = len(self._sent)
        steady = np.array([np.all(delays[max(0, first + k - RECENT) : first + k + 1] == delays[first + k]) for k in range(count)])
        if np.all(delays == delays[0]):
            steady[:] = True
            plain = _taken(sent, base - int(delays[0]), count * frames + 1).astype(np.float64)
            step = np.abs(np.diff(plain)).reshape(count, frames).max(1)
            plain = plain[1:].reshape(count, frames)
            low, high = np.minimum(LEAST * plain, plain), np.maximum(LEAST * plain, plain)
            self._share(periods, plain, steady)
        else:
            low, high, step = np.empty((count, frames)), np.empty((count, frames)), np.empty(count)
            for k in range(count):
                several = np.unique(delays[max(0, first + k - RECENT) : first + k + 1])
                each = np.stack([_taken(sent, base + k * frames - int(delay), frames + 1) for delay in several]).astype(np.float64)
                step[k] = np.abs(np.diff(each, axis=1)).max()
                each = np.concatenate([each[:, 1:], LEAST * each[:, 1:]])
                low[k], high[k] = each.min(0), each.max(0)
        self._sent = sent[-HISTORY:]
        self._soften(periods, delays[first:], (low, high, step), frames)
        return low, high, step

    def _lifting(self, periods: Periods, frames: int) -> NDArray[np.bool_]:
        """Where two engines may sound at once: in the block of music in which one takes over, and shortly after a change of mind."""
        turns = periods.controls[:, Control.TURN]
        begins = turns // 2
        places = periods.position - periods.controls[:, Control.DELAY_FRAMES]
        places = np.maximum(places, periods.position - np.where(periods.controls[:, Control.JAM] >= 0.5, 2 * BLOCK, self._longest))
        crossing = (begins > 0) & (periods.position - frames > begins) & (places < begins + 2 * BLOCK)
        changed = np.diff(np.concatenate([self._turns[-RECENT:], turns]), prepend=self._turns[-1]) != 0
        self._turns = np.concatenate([self._turns, turns])[-RECENT:]
        shortly = np.convolve(changed, np.ones(RECENT + 1), "full")[: len(changed)][-len(turns) :] > 0
        return np.asarray(crossing | shortly)

    def _soften(self, periods: Periods, delays: NDArray[np.int64], hull: tuple[Numbers, Numbers, Numbers], frames: int) -> None:
        low, high, step = hull
        for begin, end, level in self._soft:
            for k in np.flatnonzero((periods.position - delays < end + frames) & (periods.position - delays + frames > begin - frames)):
                most = max(float(np.abs(low[k]).max()), float(np.abs(high[k]).max()), 0.3)
                low[k], high[k], step[k] = -most, most, max(step[k], level)
                self.findings.soft += frames

    def _share(self, periods: Periods, plain: Numbers, steady: NDArray[np.bool_]) -> None:
        energy = (plain * plain).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            numbers = np.where(energy > 1e-4, (plain * periods.bus).sum(1) / energy, np.nan)
        self.on_share(Share(int(periods.ns[0]), numbers.astype(np.float32), steady, periods.controls))

    # What was

    def _judge_send(self, periods: Periods, want: Numbers) -> None:
        within = np.abs(want) <= LIMIT
        wrong = (np.abs(periods.send - want) > TOLERANCE) & within.all(1)[:, None]
        self._found("wrong_send", periods, wrong, want, periods.send)

    def _judge_bus(self, periods: Periods, low: Numbers, high: Numbers, sounds: NDArray[np.bool_]) -> None:
        bus = periods.bus
        self._found("wrong_bus", periods, (bus < low - TOLERANCE) | (bus > high + TOLERANCE), high, bus)
        least = np.where(low * high > 0, np.minimum(np.abs(low), np.abs(high)), 0.0)
        due = (least > DUE) & sounds
        self.findings.due_wet += int(np.count_nonzero(due))
        self._found("silent", periods, due & (np.abs(bus) < PARTS * least), least, bus)

    def _judge_out(self, periods: Periods, low: Numbers, high: Numbers) -> None:
        least = np.where(low * high > 0, np.minimum(np.abs(low), np.abs(high)), 0.0)
        loud = np.maximum(np.abs(low), np.abs(high)).max(1) > LIMIT
        self.findings.limited += int(np.count_nonzero(loud)) * low.shape[1]
        wrong = ((periods.out < low - TOLERANCE) | (periods.out > high + TOLERANCE)) & ~loud[:, None]
        bent = loud[:, None] & ((np.abs(periods.out) > 1) | (np.abs(periods.out) < np.minimum(least, LIMIT) - 0.02))
        self._found("wrong_out", periods, wrong | bent, high, periods.out)
        self._found("silent", periods, (least > DUE) & (np.abs(periods.out) < PARTS * least), least, periods.out)

    def _judge_steps(self, periods: Periods, dry: Numbers, wet: Numbers, step: Numbers) -> None:
        flat = periods.out.ravel().astype(np.float64)
        before = flat[0] if self._out_before is None else self._out_before
        steps = np.abs(np.diff(flat, prepend=before)).reshape(periods.out.shape)
        own = np.abs(np.diff(periods.dry.ravel().astype(np.float64), prepend=float(periods.dry[0, 0]))).reshape(periods.dry.shape)
        own[0, 0] = max(own[0, 0], 2.0 if self._out_before is None else 0.0, abs(float(periods.dry[0, 0]) - self._dry_before))
        most = dry * own.max(1) + 1.3 * wet * step + CLICK
        self._found("clicks", periods, steps > most[:, None], np.repeat(most[:, None], steps.shape[1], 1), steps)
        self.findings.largest_step = max(self.findings.largest_step, float(steps.max()))
        self._out_before, self._dry_before = float(flat[-1]), float(periods.dry[-1, -1])

    _dry_before = 0.0

    def _found(self, what: str, periods: Periods, where: NDArray[np.bool_], want: Numbers, have: Numbers | Samples) -> None:
        count = int(np.count_nonzero(where))
        if count:
            k, n = np.argwhere(where)[0]
            self.findings.add(what, count, periods.ns[k] / 1e9, f"(wanted {want[k, n]:.5f}, heard {have[k, n]:.5f})")


def _taken(samples: Samples, begin: int, count: int) -> Samples:
    """`count` samples that end where `begin + count - 1` does; the one before `begin` comes first."""
    assert begin >= 1, "the history is too short"
    return samples[begin - 1 : begin - 1 + count]


def _targets(controls: Numbers) -> list[Numbers]:
    """Where the controls want dry, wet, feed, repeats, dark and thin."""
    column = {control: controls[:, control] for control in Control}
    mix, level = column[Control.MIX], column[Control.LEVEL]
    tuner, bypass = column[Control.TUNER], column[Control.BYPASS] >= 0.5
    no_dry = (column[Control.KILL_DRY] >= 0.5) | (tuner >= TUNER_MUTE)
    muted = (tuner >= 1) | (bypass & (column[Control.TRAILS] < 0.5))
    passes = bypass | (tuner >= 1)
    dry = np.where(no_dry, 0.0, np.where(passes, 1.0, np.where(mix >= 1, 0.0, level * np.cos(mix * np.pi / 2))))
    wet = np.where(muted, 0.0, level * np.sin(mix * np.pi / 2))
    repeats = np.where(muted, 0.0, np.minimum(column[Control.REPEATS], 0.95))
    turned = 2 * column[Control.TONE] - 1
    dark, thin = 0.9 * np.maximum(0, -turned), 0.9 * np.maximum(0, turned)
    return [dry, wet, np.where(passes, 0.0, 1.0), repeats, dark, thin]
