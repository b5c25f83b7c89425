"""What switches, knobs and pedal of a board mean, as the configuration says: from BoardEvents to ControlEvents.

A knob has no effect until it reaches the value that it finds (soft takeover): after a preset, a tap or a MIDI message nothing jumps
when a knob is touched. The expression pedal takes hold at once: a foot can't search.

Runs in: the main process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.config import Config, ConfigError, KnobsConfig, SwitchesConfig
from appliance.consent import Consent
from appliance.gestures import Chord, Double, Gesture, Gestures, Hold, Press, Release, TakeBack, Timing
from appliance.player import TURNED, Memento, Player
from hw.board import EXPRESSION, ControlEvent, KnobEvent, SwitchEvent

TOGGLES = ("bypass", "freeze", "jam", "tuner", "kill_dry", "trails")
STEPS: dict[str, tuple[str, str]] = {
    "next_preset": ("preset", "next"),
    "previous_preset": ("preset", "previous"),
    "next_bank": ("bank", "next"),
    "previous_bank": ("bank", "previous"),
    "save": ("save", "here"),  # not on a press: a chord could not take it back
    "save_new": ("save", "new"),
    "save_flight": ("save", "flight"),
}
PROMPT_STEPS = {"next_prompt": 1, "previous_prompt": -1}
ACTIONS = (*TOGGLES, "tap", *STEPS, *PROMPT_STEPS, "none")
POTS = 6
CLOSE = 0.015  # of a knob's way: so near it is there
_SAME = 1e-3  # of a knob's way: a value that is still the one that the knob has set

Apply = Callable[[ControlEvent], None]


class SoftTakeover:
    """One knob. `takes` is asked at every move whether the knob sets the value."""

    def __init__(self) -> None:
        self._last: float | None = None  # where the knob stood
        self._holds: float | None = None  # what it has set last, if it has hold of the value

    def takes(self, position: float, current: float) -> bool:
        last, self._last = self._last, position
        held = self._holds is not None and abs(current - self._holds) <= _SAME
        passed = last is not None and min(last, position) <= current <= max(last, position)
        takes = held or passed or abs(position - current) <= CLOSE
        self._holds = position if takes else None
        return takes


@dataclass(frozen=True)
class Expression:
    """The pedal's way, laid over part of a control's."""

    control: str
    low: float = 0.0
    high: float = 1.0

    @classmethod
    def parse(cls, words: str) -> Expression | None:
        """`none`, `morph` or `mix 0.2 0.8`. Raises ConfigError."""
        control, *ends = words.split() or ["none"]
        if control == "none" and not ends:
            return None
        try:
            low, high = map(float, ends or ("0", "1"))
            if control in TURNED and 0 <= low <= 1 and 0 <= high <= 1:
                return cls(control, low, high)
        except ValueError:
            pass
        raise ConfigError(f"[knobs] expression = {words!r} makes no sense: use one of {', '.join(TURNED)} and its range, as `mix 0 1`")

    def position(self, pedal: float) -> float:
        return self.low + (self.high - self.low) * pedal


@dataclass(frozen=True)
class Switches:
    """The actions, by switch from left to right."""

    press: tuple[str, ...]
    hold: tuple[str, ...]
    double: tuple[str, ...]
    chords: tuple[str, ...]

    @classmethod
    def of(cls, config: SwitchesConfig) -> Switches:
        """Raises ConfigError."""
        press = _words("switches", "press", config.press, tuple(word for word in ACTIONS if not word.startswith("save")))
        return cls(press, *(_words("switches", key, getattr(config, key), ACTIONS) for key in ("hold", "double", "chords")))

    @property
    def doubles(self) -> frozenset[int]:
        return frozenset(switch for switch, action in enumerate(self.double) if action != "none")

    def action(self, gesture: Gesture) -> str:
        if isinstance(gesture, Chord):
            pairs = {(0, 1): 0, (2, 3): 1}
            return _at(self.chords, pairs.get(gesture.switches, len(self.chords)))
        row = self.double if isinstance(gesture, Double) else self.press if isinstance(gesture, Press) else self.hold
        return _at(row, gesture.switch)


def pots(config: KnobsConfig) -> tuple[str, ...]:
    """Raises ConfigError."""
    return _words("knobs", "pots", config.pots, (*TURNED, "none"))


def _words(table: str, key: str, line: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = tuple(line.split())
    for word in words:
        if word not in known:
            raise ConfigError(f"[{table}] {key}: {word!r} is unknown: use {', '.join(known)}")
    return words


def _at(row: tuple[str, ...], index: int) -> str:
    return row[index] if index < len(row) else "none"


class Surface:
    """A board's events come in; `apply` gets what they mean. Raises ConfigError for a configuration that makes no sense."""

    def __init__(self, config: Config, player: Player, apply: Apply, consent: Consent) -> None:
        self.player, self.apply, self.consent = player, apply, consent
        self.switches, self.pots = Switches.of(config.switches), pots(config.knobs)
        self.expression = Expression.parse(config.knobs.expression)
        self._soft = config.knobs.soft_takeover
        timing = Timing(*(ms / 1000 for ms in (config.switches.hold_ms, config.switches.double_ms, config.switches.chord_ms)))
        self._hold_seconds = timing.hold_seconds
        self._gestures = Gestures(timing, self.switches.doubles)
        self._takeovers = [SoftTakeover() for _ in self.pots]
        self._presses: dict[int, tuple[Memento, Memento]] = {}  # what stood before and after the last press of each switch

    def move(self, event: SwitchEvent | KnobEvent) -> None:
        if isinstance(event, SwitchEvent):
            self._act(self._gestures.take(event))
        elif event.knob == EXPRESSION:
            if self.expression:
                self.player.turn(self.expression.control, self.expression.position(event.value))
        elif 0 <= event.knob < len(self.pots) and self.pots[event.knob] != "none":
            self._turn(event.knob, event.value)

    def advance(self, seconds: float) -> None:
        """Call at every tick: a hold has no event of its own."""
        self._act(self._gestures.advance(seconds))
        self.consent.advance(seconds)

    def let_go(self) -> None:
        """The board is gone: no foot holds anything."""
        self._act(self._gestures.let_go())

    def _turn(self, knob: int, position: float) -> None:
        control = self.pots[knob]
        if self._takeovers[knob].takes(position, self.player.position(control)) or not self._soft:
            self.player.turn(control, position)

    def _act(self, gestures: list[Gesture]) -> None:
        for gesture in gestures:
            if isinstance(gesture, TakeBack):
                self._take_back(gesture.switch)
            elif isinstance(gesture, Press):
                self._press(gesture)
            elif isinstance(gesture, (Hold, Release)):
                self._hold(gesture)
            else:
                self._do(self.switches.action(gesture), gesture.seconds)

    def _press(self, press: Press) -> None:
        """While the tuner is on, any switch ends that and does nothing else."""
        before = self.player.remember()
        self._do("tuner" if self.player.on("tuner") else self.switches.action(press), press.seconds)
        self._presses[press.switch] = before, self.player.remember()

    def _hold(self, gesture: Hold | Release) -> None:
        """A freeze lasts as long as the foot stays; all else happens once. The last switch agrees to a question, if one stands."""
        action, begins = self.switches.action(gesture), isinstance(gesture, Hold)
        if gesture.switch == len(self.switches.press) - 1 and (self.consent.asked if begins else self.consent.held):
            self._agree(gesture)
            return
        if action == "freeze":
            self.apply(ControlEvent(gesture.seconds, "freeze", float(begins)))
        elif begins:
            if action == "tuner":  # who wants to tune did not want what the press did
                self._take_back(gesture.switch)
            self._do(action, gesture.seconds)

    def _agree(self, gesture: Hold | Release) -> None:
        if isinstance(gesture, Hold):
            self._take_back(gesture.switch)
            self.consent.press(gesture.seconds - self._hold_seconds)
        else:
            self.consent.release()

    def _take_back(self, switch: int) -> None:
        if switch in self._presses:
            self.player.take_back(*self._presses.pop(switch))

    def _do(self, action: str, seconds: float) -> None:
        if action == "tap":
            self.apply(ControlEvent(seconds, "tap", 1.0))
        elif action in TOGGLES:
            self.apply(ControlEvent(seconds, action, float(not self.player.on(action))))
        elif action in STEPS:
            control, value = STEPS[action]
            self.apply(ControlEvent(seconds, control, value))
        elif action in PROMPT_STEPS:
            prompts = len(self.player.spec.prompts)
            index = self.player.prompt_index + PROMPT_STEPS[action]
            self.apply(ControlEvent(seconds, "prompt", float(index % prompts)))
