"""What the player wants, as Controls: the configuration first, then every event of the board.

Names and ranges are those of the configuration's [controls]; besides these the board has `prompt` (a number or a text), `steps` and
`tap` (a press: when it came is what matters).

Runs in: the main process, the only one that writes Controls.
"""

from __future__ import annotations

import difflib
from dataclasses import fields

from appliance.config import Config, ConfigError, ControlsConfig
from appliance.controls import Control, Controls
from appliance.fit import Fit
from appliance.rules import Rule
from appliance.tempo import Subdivision, TapTempo, fit_delay
from engines.engine import EngineSpec
from hw.board import CONTROL_NAMES, ControlEvent

SWITCHES = {
    "bypass": Control.BYPASS, "kill_dry": Control.KILL_DRY, "trails": Control.TRAILS, "freeze": Control.FREEZE, "jam": Control.JAM,
}
KNOBS = {
    "mix": Control.MIX, "repeats": Control.REPEATS, "level": Control.LEVEL, "tone": Control.TONE, "morph": Control.MORPH, "stray": Control.STRAY,
}
PROMPTS = {"prompt": Control.PROMPT, "second_prompt": Control.SECOND_PROMPT}


def find_prompt(wish: str | float, spec: EngineSpec) -> int:
    """Index of the prompt that `wish` means: a number, a prompt, or words that are in one. Raises ConfigError."""
    prompts = [prompt.casefold() for prompt in spec.prompts]
    text = str(wish).strip().casefold()
    if isinstance(wish, float) and wish.is_integer():
        text = str(int(wish))
    if text.isdecimal() and int(text) < len(prompts):
        return int(text)
    if text in prompts:
        return prompts.index(text)
    words = set(text.split())
    for index, prompt in enumerate(prompts):
        if words <= set(prompt.split()):
            return index
    near = difflib.get_close_matches(text, prompts, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"it knows: {', '.join(spec.prompts)}"
    raise ConfigError(f"prompt {wish!r} is unknown to engine {spec.name!r}; {hint}")


class Player:
    """`start` once, then `apply` each event. What can't be done is answered with a line, and changes nothing."""

    def __init__(self, controls: Controls, fit: Fit) -> None:
        self.controls, self.fit, self.spec = controls, fit, fit.spec
        self.tempo, self.subdivision = TapTempo(), Subdivision.QUARTER
        self._rules: dict[str, Rule] = {one.name: one.metadata["rule"] for one in fields(ControlsConfig)}

    def start(self, config: Config) -> None:
        """Set every control as configured. Raises ConfigError if the engine does not know the prompt."""
        wishes = config.controls
        for name, control in {**KNOBS, **SWITCHES}.items():
            self.controls.set(control, float(getattr(wishes, name)))
        self.subdivision = Subdivision.from_label(wishes.subdivision)
        self._delay(wishes.delay_ms)
        for name, control in PROMPTS.items():
            wish = getattr(config.engine, name)
            self.controls.set(control, find_prompt(wish, self.spec) if wish else 0)
        self.controls.set(Control.STEPS, min(config.engine.steps, self.spec.max_steps))

    @property
    def prompt(self) -> str:
        return self.spec.prompts[int(self.controls.get(Control.PROMPT))]

    def apply(self, event: ControlEvent) -> str | None:
        """Returns None, or the line that says why nothing was done."""
        try:
            self._apply(event)
        except (ConfigError, ValueError) as error:
            return f"board, {event.seconds:.3f} s: {error}"
        return None

    def _apply(self, event: ControlEvent) -> None:
        name, value = event.control, event.value
        if name == "tap":
            self._beat(self.tempo.stamp(event.seconds))
        elif name in PROMPTS:
            self.controls.set(PROMPTS[name], find_prompt(value, self.spec))
        elif name == "steps":
            self.controls.set(Control.STEPS, min(max(int(value), 0), self.spec.max_steps))
        elif name == "subdivision":
            self.subdivision = Subdivision.from_label(str(value))
            self._beat(self.tempo.beat_seconds)
        elif name == "delay_ms":
            self._delay(self._number(name, value))
        elif name in KNOBS:
            self.controls.set(KNOBS[name], self._number(name, value))
        elif name in SWITCHES:
            self.controls.set(SWITCHES[name], float(float(value) >= 0.5))
        else:
            raise ConfigError(f"control {name!r} is unknown: use one of {', '.join(CONTROL_NAMES)}")

    def _number(self, name: str, value: float | str) -> float:
        number, rule = float(value), self._rules[name]
        if not rule.low <= number <= rule.high:
            raise ConfigError(f"{name} = {value} is not allowed: must be {rule.says}")
        return number

    def _delay(self, delay_ms: float) -> None:
        self.controls.set(Control.DELAY_FRAMES, self.fit.delay_frames(delay_ms))

    def _beat(self, beat_seconds: float | None) -> None:
        if beat_seconds:
            delays = self.fit.delays
            frames = fit_delay(beat_seconds, self.subdivision, delays.shortest_frames, self.spec.sample_rate)
            self.controls.set(Control.DELAY_FRAMES, delays.clip(frames))
