"""What the constant-Q rows of latents say of low notes, and how the decoder turns and sounds them.

A spectrum bin is as wide as four semitones at 80 Hz, and a partial reaches four bins: the partials of a low chord share bins, which then
beat, and a single phase that turns evenly cannot follow. The rows' windows are four times as long. So each of their peaks is a tone: what
it says of how fast bins turn serves up to 2 kHz (`LowPitches`), and below 370 Hz tones sound as oscillators, whose sum beats as it
should (`Oscillators`), as in sinusoidal modelling (McAulay and Quatieri, 1986).

Shapes: B batch, T latent, F frame (4 per latent), I tone (34, one per inner constant-Q bin), K lower spectrum bin. Runs in: the worker
process (in the graph of the decoder) and training.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.lmdm import sketch
from engines.lmdm.codec import HOP_FRAMES, LOG_MAGNITUDE_LIMIT, LOW_BINS, MEL_FLOOR, SAMPLE_RATE, STACK, log_of_mel, normalise_low
from engines.lmdm.dft import SIZE

PITCH_0_HZ = 55.0  # of the lowest constant-Q bin
TONES = LOW_BINS - 2  # a peak has neighbours
TURNED, PARTIALS = 96, 16  # spectrum bins (up to 2 kHz) that constant-Q peaks and so many partials of theirs may reach
MEL_OVER_ROWS, BIN_OVER_ROWS = 446.0, 512.0  # a tone's mel magnitude, and that of its spectrum bin, over that of its constant-Q row
QUIETEST_PITCH = 1e-3  # amplitude
LEAST_BEND = 0.8  # of the log magnitudes of a peak
SIDELOBE = 1e-3  # power against the loudest band's
NO_PEAK = 1e-2  # power below which what is told fades: next to nothing has no direction
SOUNDED, FADED = 17, 3  # spectrum bins (up to 366 Hz) that oscillators sound, and over how many of the last that ends
LEAST_SHARE, WHOLE_SHARE = 0.2, 0.6  # of a neighbourhood's power that tones tell of: from where on they count, and from where on alone
CROWDED = 0.1  # share of what tones tell that is not the loudest one's, from where on a neighbourhood is theirs
NEAR = 2  # bins on each side that are a neighbourhood


class Tones(NamedTuple):
    """Peaks of the constant-Q rows, one for each of 34 semitones, whether there is a note or not."""

    hz: Tensor  # (B, T, 34)
    power: Tensor  # (B, T, 34) against the loudest mel band of the latent, 0 to 1; 0 where there is no peak
    loudest: Tensor  # (B, T, 1) amplitude of that


class LowTones(nn.Module):
    """`forward`: normalised log constant-Q rows (B, T, 36) and log-mel (B, 4T, 128) -> Tones.

    A parabola through the three log magnitudes of a peak gives its pitch to 1 or 2 cents. A peak that is far below the loudest mel band is
    a sidelobe of something else.
    """

    def __init__(self) -> None:
        super().__init__()
        slope, shift = _parabola_corrections()
        self.register_buffer("semitones", torch.arange(1, LOW_BINS - 1) + shift, persistent=False)
        self.register_buffer("slope", slope, persistent=False)

    def forward(self, rows: Tensor, mel: Tensor) -> Tones:
        log, heard = (log_of_mel(part).clamp(max=LOG_MAGNITUDE_LIMIT) for part in (rows, mel))
        loudest = (torch.exp(heard) - MEL_FLOOR).unflatten(1, (-1, STACK)).amax((2, 3))[..., None]
        loudest = (loudest / MEL_OVER_ROWS).clamp(min=QUIETEST_PITCH)
        offset, top, is_peak = _parabolas(log)
        magnitude = (torch.exp(top) - MEL_FLOOR) / loudest
        power = is_peak * (magnitude.clamp(0, 1) ** 2 - SIDELOBE).clamp(min=0)
        hz = PITCH_0_HZ * torch.exp((self.semitones + self.slope * offset) * (math.log(2) / 12))
        return Tones(hz, power, loudest)


class LowPitches(nn.Module):
    """How fast the phase of the lower spectrum bins turns, by the tones and their partials.

    A network that guesses a frequency to 1 Hz is off by 20 cents at 80 Hz. Partials lie at multiples of a tone, and a bin turns as what
    reaches it does.

    `forward`: Tones -> phasors (B, T, 2, 96): how much more than k pi / 2 bin k turns in a hop; of length 1, less where little is known,
    and 0 where nothing is.
    """

    def __init__(self) -> None:
        super().__init__()
        quarter = torch.arange(TURNED) * (math.pi / 2)
        constants = {
            "orders": torch.arange(1, 1 + PARTIALS).float(), "bins": torch.arange(TURNED).float(),
            "cos": quarter.cos(), "sin": quarter.sin(),
        }  # fmt: skip
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, tones: Tones) -> Tensor:
        hz = tones.hz[..., None] * self.orders  # (B, T, 34, N)
        away = (hz * (SIZE / SAMPLE_RATE / 2)).flatten(-2)[..., None] - self.bins / 2  # (B, T, 34 N, 96), as a share of what a bin reaches
        reach = (1 - away * away).clamp(min=0)
        reach = reach * reach
        reach = reach * reach  # about the main lobe of a Hann window, as power; a power of 4 costs a runtime more than all before it
        angle, power = (math.tau * HOP_FRAMES / SAMPLE_RATE) * hz, tones.power[..., None] / self.orders**2
        re, im = (((power * turn).flatten(-2)[..., None, :] @ reach)[..., 0, :] for turn in (angle.cos(), angle.sin()))
        re, im = re * self.cos + im * self.sin, im * self.cos - re * self.sin
        scale = torch.rsqrt((re * re + im * im).clamp(min=NO_PEAK**2))
        return torch.stack([re * scale, im * scale], -2)


class Oscillators(nn.Module):
    """Low tones, each with a phase of its own that goes on from block to block.

    `forward`: hz and amplitude of the tones of a block's latents (T, 2, 34), magnitudes (F, 1025) and unit phasors re and im (F, 1025)
    that are to sound, phasors of the tones at the end of the last block (2, 34) -> magnitudes, re and im with the lowest bins anew, and
    the tones' phasors at the end of this one. Where several tones tell of most of the power near a bin, the bin is their sum, as loud as
    it was to be; where one does, or all tell of little, it stays.
    """

    def __init__(self, latents: int) -> None:
        super().__init__()
        frames, reached = torch.arange(latents * STACK)[:, None], torch.arange(SOUNDED + NEAR)
        constants = {  # none of what is multiplied by is exact in float16: such products would be float16's (export/precision.py)
            "hops": (frames + 1 - STACK * torch.arange(latents)).clamp(0, STACK) * math.tau,  # (F, T) that each latent has lasted
            "bins": reached.float(),
            "near": ((reached[:, None] - torch.arange(SOUNDED)).abs() <= NEAR) / (2 * NEAR + 1),
            "fade": ((SOUNDED - torch.arange(SOUNDED)) / FADED).clamp(max=1),
        }
        for name, value in constants.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, tones: Tensor, magnitude: Tensor, re: Tensor, im: Tensor, phase: Tensor) -> tuple[Tensor, ...]:
        hz, amplitude = tones.unbind(1)
        lobes = amplitude[..., None] * _lobe(hz[..., None] * (SIZE / SAMPLE_RATE) - self.bins)  # (T, 34, K + 2)
        tone_re, tone_im = self._turn(hz, phase)
        sum_re, sum_im = ((part.unflatten(0, (-1, STACK)) @ lobes[..., :SOUNDED]).flatten(0, 1) for part in (tone_re, tone_im))
        share, gain = self._shares(lobes, magnitude)
        kept = (1 - share) * magnitude[:, :SOUNDED]
        low_re, low_im = kept * re[:, :SOUNDED] + gain * sum_re, kept * im[:, :SOUNDED] + gain * sum_im
        low = torch.sqrt((low_re * low_re + low_im * low_im).clamp(min=1e-14))
        whole = (torch.cat([part, rest[:, SOUNDED:]], 1) for part, rest in ((low, magnitude), (low_re / low, re), (low_im / low, im)))
        return *whole, torch.stack(unit(*(_beside(amplitude[-1] * part[-1]) for part in (tone_re, tone_im))))

    def _turn(self, hz: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Phasors of the tones at every frame, re and im (F, 34) each."""
        turns = hz * (HOP_FRAMES / SAMPLE_RATE)
        angle = self.hops @ (turns - turns.floor())  # whole turns only cost digits
        re, im = angle.cos(), angle.sin()
        return re * phase[0] - im * phase[1], re * phase[1] + im * phase[0]

    def _shares(self, lobes: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """What the oscillators' sum counts in each bin, 0 to 1, and that times what makes it as loud as is wanted there, both (F, K)."""
        each = (lobes * lobes) @ self.near  # (T, 34, K)
        told = each.sum(1).clamp(min=1e-12)
        loudest = (each[:, 1:] + each[:, :-1]).amax(1)  # one between two semitones is half of both
        crowded = ((1 - loudest / told) / CROWDED).clamp(0, 1).repeat_interleave(STACK, 0)
        told = told.repeat_interleave(STACK, 0)
        power = (magnitude[:, : SOUNDED + NEAR] ** 2 @ self.near).clamp(min=1e-12)
        share = ((told / power - LEAST_SHARE) / (WHOLE_SHARE - LEAST_SHARE)).clamp(0, 1) * self.fade * crowded
        return share, share * torch.sqrt(power / told)


def unit(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    """Complex numbers brought to length 1. A floor, not a sum: runtimes take x + 1e-16 for x, and nothing has no direction. It is high
    enough for the slope there to be a number, too."""
    scale = torch.rsqrt((re * re + im * im).clamp(min=1e-25))
    return re * scale, im * scale


def _beside(x: Tensor) -> Tensor:
    """(34,) -> each with those beside it: a tone that glides to the next semitone takes its phase along."""
    return x + F.pad(x[1:], (0, 1)) + F.pad(x[:-1], (1, 0))


def _lobe(away: Tensor) -> Tensor:
    """The main lobe of a Hann window's spectrum, so many bins from its middle, within 0.01: a polynomial has no holes at 0 and 1."""
    square = (away * away / 4).clamp(max=1)
    rest = 1 - square
    return rest * rest * (1 - square * (0.577 - 0.533 * square))


def _parabolas(log: Tensor) -> tuple[Tensor, Tensor]:
    """Log magnitudes (..., 36) -> where between bins 1 .. 34 and their neighbours a peak would be, in semitones, how high, and how much
    there is one, 0 to 1, all (..., 34). A peak between two bins is half of either's: what comes out moves no faster than what goes in."""
    below, at, above = log[..., :-2], log[..., 1:-1], log[..., 2:]
    bend = 2 * at - below - above
    slope = 0.5 * (above - below)
    offset = (slope / bend.clamp(min=LEAST_BEND)).clamp(-0.75, 0.75)
    return offset, at + 0.5 * slope * offset, ((0.6 - offset.abs()) / 0.2).clamp(0, 1) * (bend / LEAST_BEND).clamp(0, 1)


@cache
@torch.no_grad()
def _parabola_corrections() -> tuple[Tensor, Tensor]:
    """Slope and shift, each (34,), by which a steady tone's parabola tells where the tone is: windows of neighbouring bins differ in
    length, and the longest are shorter than a semitone asks for."""
    listen, off = sketch.Sketch(), torch.linspace(-0.4, 0.4, 5, dtype=torch.float64)
    hz = PITCH_0_HZ * 2 ** ((torch.arange(1, LOW_BINS - 1)[:, None] + off) / 12)  # (34, 5)
    time = torch.arange(sketch.HISTORY_FRAMES + sketch.LATENT_FRAMES, dtype=torch.float64) / SAMPLE_RATE
    tones = torch.cos(math.tau * hz.flatten()[:, None] * time).float()
    rows = log_of_mel(normalise_low(listen.magnitudes(tones)[0]))[:, 0].unflatten(0, hz.shape)  # (34, 5, 36)
    found = torch.stack([_parabolas(rows[bin_])[0][:, bin_] for bin_ in range(LOW_BINS - 2)]).double()
    found_mean = found.mean(1, keepdim=True)
    slope = ((found - found_mean) * off).sum(1) / ((found - found_mean) ** 2).sum(1)
    return slope.float(), (-slope * found_mean[:, 0]).float()
