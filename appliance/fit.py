"""Whether configuration and engine go together, and what follows from both: the shared arrays and the possible delays.

Runs in: the main process, before anything is started.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from appliance.config import MAX_DELAY_MS, Config, ConfigError
from appliance.deadline import Deadline
from appliance.delay import WetSettings
from appliance.shared import Layout
from engines.engine import EngineSpec


@dataclass(frozen=True)
class DelayRange:
    """From the shortest delay, which leaves the engine its budget, to the longest that the rings hold."""

    shortest_frames: int
    longest_frames: int

    def clip(self, frames: int) -> int:
        return min(max(frames, self.shortest_frames), self.longest_frames)


@dataclass(frozen=True)
class Fit:
    """What is fixed for as long as this engine plays with this configuration, in rings that were made when the pedal started."""

    spec: EngineSpec
    layout: Layout
    delays: DelayRange
    wet: WetSettings = field(default_factory=WetSettings)

    @classmethod
    def of(cls, config: Config, spec: EngineSpec) -> Fit:
        """Raises ConfigError where the two do not go together."""
        layout, wet = _layout(config, spec), WetSettings()
        return cls(spec, layout, _delays(config, layout, wet.fade_frames), wet)

    def with_engine(self, config: Config, spec: EngineSpec) -> Fit:
        """Another engine in the same rings. Raises ConfigError where it needs other ones."""
        here = self.layout
        if (spec.sample_rate, spec.block_frames) != (here.sample_rate, here.block_frames):
            plays, pedal = (f"{one.block_frames} frames at {one.sample_rate} Hz" for one in (spec, here))
            raise ConfigError(f"engine {spec.name!r} plays blocks of {plays}, the pedal {pedal}: it can't take over; restart with it")
        layout = replace(here, codec_delay_frames=spec.codec_delay_frames)
        return replace(self, spec=spec, layout=layout, delays=_delays(config, layout, self.wet.fade_frames))

    def delay_frames(self, delay_ms: float) -> int:
        """The delay that comes nearest to what the player asks for."""
        return self.delays.clip(round(delay_ms * self.layout.sample_rate / 1000))


def _layout(config: Config, spec: EngineSpec) -> Layout:
    rate_hz, period, block = config.audio.rate_hz, config.audio.period_frames, spec.block_frames
    if rate_hz != spec.sample_rate:
        raise ConfigError(f"[audio] rate_hz = {rate_hz}, but engine {spec.name!r} plays at {spec.sample_rate}: set rate_hz to that")
    if block % period:
        raise ConfigError(f"[audio] period_frames = {period} does not divide the engine's block of {block}: use a power of 2")
    longest_frames = round(MAX_DELAY_MS * rate_hz / 1000) + spec.codec_delay_frames
    ring_blocks = -(-longest_frames // block) + 3
    return Layout(rate_hz, period, block, spec.codec_delay_frames, ring_blocks * block, max(1024, period))


def _delays(config: Config, layout: Layout, fade_frames: int) -> DelayRange:
    budget_ms = config.engine.budget_ms
    budget_frames = round(budget_ms * layout.sample_rate / 1000) or layout.block_frames // 2
    if budget_frames <= fade_frames:
        raise ConfigError(f"[engine] budget_ms = {budget_ms:g} leaves no time: use more than {1000 * fade_frames / layout.sample_rate:.0f}")
    shortest = Deadline.of(layout, fade_frames).minimum_delay_frames(budget_frames)
    longest = layout.ring_frames - 2 * layout.block_frames
    if shortest > longest:  # the rings are made for the longest delay and the largest budget of the engine that plays first
        raise ConfigError(f"a codec delay of {layout.codec_delay_frames} frames is more than the rings hold: restart with this engine")
    return DelayRange(shortest, longest)
