"""What the player wants, as Controls: the configuration first, then every event that names a control, then whole sounds (presets).

Names and ranges are those of the configuration's [controls]; besides these there are `prompt` (a number or a text), `steps`, `time` (the
delay as a knob has it), `tuner` and `tap` (a press: when it came is what matters).

Runs in: the main process, the only one that writes Controls.
"""

from __future__ import annotations

import copy
import difflib
import math
from dataclasses import dataclass

from appliance.config import Config, ConfigError, ControlsConfig
from appliance.controls import PROMPTS_OF_SLOT, Control, Controls, Tuning
from appliance.fit import Fit
from appliance.presets import Place, Sound
from appliance.rules import rules_of
from appliance.state import Stand
from appliance.tempo import Subdivision, TapTempo, fit_delay
from engines.engine import EngineSpec
from hw.board import CONTROL_NAMES, ControlEvent

SWITCHES = {
    "bypass": Control.BYPASS, "kill_dry": Control.KILL_DRY, "trails": Control.TRAILS, "freeze": Control.FREEZE, "jam": Control.JAM,
}
KNOBS = {
    "mix": Control.MIX, "repeats": Control.REPEATS, "level": Control.LEVEL, "tone": Control.TONE, "morph": Control.MORPH,
    "stray": Control.STRAY,
}
PROMPTS = ("prompt", "second_prompt")
NOT_PRESSED = (Control.RUNNING, Control.TURN)  # what no press can change
TURNED = (*KNOBS, "time")  # what a knob or a pedal can move


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


def _unknown(wish: str, spec: EngineSpec) -> str:
    """Why this engine can't be asked for these words; empty if it can."""
    try:
        find_prompt(wish or 0, spec)
    except ConfigError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Memento:
    """Everything that a press can change, to take it back."""

    values: dict[Control, float]
    tempo: TapTempo
    subdivision: Subdivision
    wishes: dict[str, str]
    place: Place


class Player:
    """`start` once, then `apply` each event. What can't be done is answered with a line, and changes nothing."""

    def __init__(self, controls: Controls, fit: Fit) -> None:
        self.controls, self.fit, self.spec = controls, fit, fit.spec
        self.tempo, self.subdivision = TapTempo(), Subdivision.QUARTER
        self.wishes = dict.fromkeys(PROMPTS, "")  # prompts as the player put them: another engine may know what this one does not
        self.slot = 0  # of the engine that this one plays with
        self._other: tuple[EngineSpec, int] | None = None  # while one takes over from the other: that of the two which is not `spec`
        self._stretched = 0, 0  # the delay before the last turn, and as it had to be after it
        self.place = Place(1, 1)  # of the preset that was chosen last
        self.tuning = Tuning.MUTE  # what `tuner` turns on
        self._rules = rules_of(ControlsConfig)

    def start(self, config: Config) -> None:
        """Set every control as configured. Raises ConfigError if the engine does not know the prompt."""
        wishes = config.controls
        for name, control in {**KNOBS, **SWITCHES}.items():
            self.controls.set(control, float(getattr(wishes, name)))
        self.subdivision = Subdivision.from_label(wishes.subdivision)
        self._delay(wishes.delay_ms)
        for name in PROMPTS:
            self._prompt(name, getattr(config.engine, name) or 0)
        self.controls.set(Control.STEPS, min(config.engine.steps, self.spec.max_steps))
        self.tuning = Tuning.MUTE if config.tuner.mute else Tuning.DRY

    @property
    def prompt(self) -> str:
        return self.spec.prompts[self.prompt_index]

    @property
    def prompt_index(self) -> int:
        return int(self.controls.get(PROMPTS_OF_SLOT[self.slot][0]))

    @property
    def delay_ms(self) -> float:
        return self.controls.get(Control.DELAY_FRAMES) * 1000 / self.spec.sample_rate

    @property
    def beat_seconds(self) -> float:
        """What a tempo light blinks: the tapped beat, else the delay."""
        return self.tempo.beat_seconds or self.delay_ms / 1000

    def on(self, name: str) -> bool:
        """Whether a switch of the board's vocabulary is on."""
        return self.controls.get(Control.TUNER if name == "tuner" else SWITCHES[name]) >= 0.5

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
            self._prompt(name, value)
        elif name == "steps":
            self.controls.set(Control.STEPS, min(max(int(value), 0), self.spec.max_steps))
        elif name == "subdivision":
            self.subdivision = Subdivision.from_label(str(value))
            self._beat(self.tempo.beat_seconds)
        elif name == "delay_ms":
            self._new_delay(self._number(name, value))
        elif name == "time":
            self.turn(name, float(value))
        elif name == "tuner":
            self.controls.set(Control.TUNER, self.tuning if float(value) >= 0.5 else Tuning.OFF)
        elif name in KNOBS:
            self.controls.set(KNOBS[name], self._number(name, value))
        elif name in SWITCHES:
            self.controls.set(SWITCHES[name], float(float(value) >= 0.5))
        else:
            raise ConfigError(f"control {name!r} is unknown: use one of {', '.join(CONTROL_NAMES)}")

    # Knobs: positions from 0 to 1

    def position(self, name: str) -> float:
        """Where a knob for this control (one of TURNED) would have to stand."""
        if name == "time":
            shortest, longest = self.fit.delays.shortest_frames, self.fit.delays.longest_frames
            return math.log(self.controls.get(Control.DELAY_FRAMES) / shortest) / math.log(longest / shortest)
        low, high = self._rules[name].low, self._rules[name].high
        return (self.controls.get(KNOBS[name]) - low) / (high - low)

    def turn(self, name: str, position: float) -> None:
        """A knob for this control comes to stand here; what lies beyond its ends is its ends."""
        position = min(1.0, max(0.0, position))
        if name == "time":
            shortest, longest = self.fit.delays.shortest_frames, self.fit.delays.longest_frames
            self._new_delay(1000 * shortest * (longest / shortest) ** position / self.spec.sample_rate)
        else:
            low, high = self._rules[name].low, self._rules[name].high
            self.controls.set(KNOBS[name], low + position * (high - low))

    # Whole sounds

    def sound(self) -> Sound:
        """All that a preset keeps of how it sounds now."""
        knobs = {name: round(self.controls.get(control), 6) for name, control in KNOBS.items()}
        return Sound(
            prompt=self.wishes["prompt"],
            second_prompt=self.wishes["second_prompt"],
            delay_ms=round(self.delay_ms, 3),
            subdivision=self.subdivision.label,
            jam=self.on("jam"),
            steps=int(self.controls.get(Control.STEPS)),
            **knobs,
        )

    def play(self, sound: Sound) -> list[str]:
        """Take over a sound, all but what this engine does not know; that is said in a line each."""
        for name, control in KNOBS.items():
            self.controls.set(control, getattr(sound, name))
        self.controls.set(Control.JAM, float(sound.jam))
        self.controls.set(Control.STEPS, min(sound.steps, self.spec.max_steps))
        self.subdivision = Subdivision.from_label(sound.subdivision)
        self._new_delay(sound.delay_ms)
        refused = []
        for name in PROMPTS:
            self.wishes[name] = getattr(sound, name)
            try:
                self._ask(name, find_prompt(self.wishes[name] or 0, self.spec))
            except ConfigError as error:
                refused.append(str(error))
        return refused

    def stand(self) -> Stand:
        return Stand(str(self.place), self.on("bypass"), self.on("kill_dry"), self.on("trails"))

    def resume(self, stand: Stand) -> None:
        self.place = Place.parse(stand.preset) or self.place
        for name in ("bypass", "kill_dry", "trails"):
            self.controls.set(SWITCHES[name], float(getattr(stand, name)))

    # Another engine

    def meet(self, spec: EngineSpec, slot: int) -> None:
        """Another engine hears too. It is asked for the same words, and for its first prompt where it does not know them."""
        self._other = spec, slot
        for name in PROMPTS:
            self._tell_other(name)

    def turn_to(self, fit: Fit, slot: int) -> list[str]:
        """Play with the engine that was met; the one before hears on until `part`. Returns what there is to say about it."""
        unknown = dict.fromkeys(line for wish in self.wishes.values() if (line := _unknown(wish, fit.spec)))
        self._other = self.spec, self.slot
        self.fit, self.spec, self.slot = fit, fit.spec, slot
        before = int(self.controls.get(Control.DELAY_FRAMES))
        self._stretched = before, fit.delays.clip(before)
        self.controls.set(Control.DELAY_FRAMES, self._stretched[1])
        return list(unknown)

    def turn_back(self, fit: Fit, slot: int) -> None:
        """That engine is not to be: as before, but for what the player has changed since."""
        before, stretched = self._stretched
        self.fit, self.spec, self.slot, self._other = fit, fit.spec, slot, None
        if self.controls.get(Control.DELAY_FRAMES) == stretched:
            self.controls.set(Control.DELAY_FRAMES, before)

    def part(self) -> None:
        """Only one engine is left."""
        self._other = None

    def _ask(self, name: str, index: int) -> None:
        """The engine that is played with, for one of its prompts; the other one for the same words."""
        self.controls.set(PROMPTS_OF_SLOT[self.slot][PROMPTS.index(name)], index)
        self._tell_other(name)

    def _tell_other(self, name: str) -> None:
        if self._other:
            spec, slot = self._other
            index = 0 if _unknown(self.wishes[name], spec) else find_prompt(self.wishes[name] or 0, spec)
            self.controls.set(PROMPTS_OF_SLOT[slot][PROMPTS.index(name)], index)

    # Taking back

    def remember(self) -> Memento:
        values: dict[Control, float] = {control: self.controls.get(control) for control in Control if control not in NOT_PRESSED}
        return Memento(values, copy.deepcopy(self.tempo), self.subdivision, dict(self.wishes), self.place)

    def take_back(self, before: Memento, after: Memento) -> None:
        """Undo what happened between the two, but not what a knob has moved since."""
        for control, value in before.values.items():
            if after.values[control] != value and self.controls.get(control) == after.values[control]:
                self.controls.set(control, value)
        self.tempo, self.subdivision = before.tempo, before.subdivision
        self.wishes, self.place = dict(before.wishes), before.place

    def _number(self, name: str, value: float | str) -> float:
        number, rule = float(value), self._rules[name]
        if not rule.low <= number <= rule.high:
            raise ConfigError(f"{name} = {value} is not allowed: must be {rule.says}")
        return number

    def _prompt(self, name: str, wish: str | float) -> None:
        index = find_prompt(wish, self.spec)
        self.wishes[name] = self.spec.prompts[index]
        self._ask(name, index)

    def _new_delay(self, delay_ms: float) -> None:
        """A delay that was not tapped: it is the beat from now on."""
        self.tempo = TapTempo()
        self._delay(delay_ms)

    def _delay(self, delay_ms: float) -> None:
        self.controls.set(Control.DELAY_FRAMES, self.fit.delay_frames(delay_ms))

    def _beat(self, beat_seconds: float | None) -> None:
        if beat_seconds:
            delays = self.fit.delays
            frames = fit_delay(beat_seconds, self.subdivision, delays.shortest_frames, self.spec.sample_rate)
            self.controls.set(Control.DELAY_FRAMES, delays.clip(frames))
