"""Everything between the board and the controls, for the supervisor to call once a tick: surface, presets, last state, tuner, lights.

Presets and state live in one folder, which belongs to the pedal that plays. Where that can't be used, the pedal plays without: a
line says so.

Runs in: the main process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from appliance.config import Config, ConfigError
from appliance.consent import Consent
from appliance.controls import Controls
from appliance.deadline import Health
from appliance.fit import Fit
from appliance.lights import ClipLight, Standing, lights, stage
from appliance.player import Player
from appliance.presets import PROGRAMS, Place, Preset, PresetStore, Sound, enter_bank, parse_preset, preset_text, step, step_bank
from appliance.shared import SharedMemory
from appliance.slot import SlotState
from appliance.state import State, StateKeeper, load_state
from appliance.stats import Counter, Counters
from appliance.storage import FolderLock, Writer, state_folder, sweep
from appliance.surface import TOGGLES, Surface
from appliance.tuner import Reading, Tuner
from hw.board import BoardEvent, ControlEvent, Lights

ALIVE_SECONDS = 0.15  # audio that has made no progress for so long may be dead: the board prepares for the worst
TUNE_SECONDS = 0.1  # between two readings
SAY_SECONDS = 0.5  # between two lines about them
STEPS_OF = {"next": 1, "previous": -1}


class Storage:
    """Presets and last state of the pedal that plays. Raises OSError where its folder can't be used, or another pedal uses it."""

    def __init__(self, folder: Path) -> None:
        self._lock = FolderLock(folder)
        self.folder, self.store = folder, PresetStore(folder)
        for one in (folder, self.store.folder):
            sweep(one)
        self.writer = Writer()
        self._saving: set[Place] = set()
        self.keeper = StateKeeper(folder, self.writer)

    def load(self, place: Place) -> Preset:
        """Raises ConfigError and OSError."""
        text = self.writer.pending(self.store.path(place))
        return parse_preset(text, str(place)) if text else self.store.load(place)

    def places(self) -> list[Place]:
        self._saving = {place for place in self._saving if self.writer.pending(self.store.path(place))}
        return sorted({*self.store.places(), *self._saving})

    def save(self, place: Place, preset: Preset) -> None:
        """On the writer's thread; what is on its way already counts as there."""
        self._saving.add(place)
        self.writer.replace(self.store.path(place), preset_text(preset))

    def close(self) -> None:
        self.writer.close()
        self._lock.release()


class Playing:
    """`begin` once, then at each tick `take` the board's events and `show`; `end` at last. Raises ConfigError from the first two."""

    def __init__(self, config: Config, fit: Fit, memory: SharedMemory, remember: bool = False) -> None:
        self.config, self.memory = config, memory
        self.player = Player(Controls(memory.controls), fit)
        self.player.start(config)
        self.consent = Consent(config.store.consent_seconds)
        self.surface = Surface(config, self.player, self._apply, self.consent)
        self.counters = Counters(memory.counters)
        self.tuner = Tuner(memory, config.tuner.reference_hz)
        self.reading: Reading | None = None
        self.clip_light = ClipLight(memory)
        self.certified = True  # set by whoever knows by what licence the engine plays
        self.save_flight: Callable[[], str] = lambda: "no flight is recorded in this run"
        self.storage: Storage | None = None
        self.preset: Preset | None = None  # what was chosen last
        self._kept: Sound | None = None  # how the pedal sounded then
        self._lines: list[str] = []
        self._answered = True
        self._periods = -1
        self._progress_at = self._heard_at = self._said_at = -1.0
        if remember:
            self._open()

    # At each tick

    def take(self, events: Iterable[BoardEvent], seconds: float, answers: bool = True) -> list[str]:
        """Do what the events mean; `seconds` is the audio clock, and a board that no longer `answers` holds no switch down. Returns what
        there is to say about it."""
        for event in events:
            if isinstance(event, ControlEvent):
                self._apply(event)
            else:
                self.surface.move(event)
        if self._answered and not answers:
            self.surface.let_go()
        self._answered = answers
        self.surface.advance(seconds)
        if self.storage:
            self._lines += self.storage.writer.failures()
        lines, self._lines = self._lines, []
        return lines

    def show(self, now_seconds: float, slot: SlotState, health: Health) -> tuple[Lights, bool]:
        """What the board shows, and whether audio is alive; `now_seconds` is any monotonic clock. Keeps the state, and listens."""
        if self.storage:
            self.storage.keeper.note(now_seconds, self.state)
        self._tune(now_seconds)
        alive = self._alive(now_seconds)
        return lights(self._standing(now_seconds, slot, health, alive)), alive

    def state(self) -> State:
        return State(self.player.stand(), self.player.sound())

    def end(self) -> list[str]:
        """Keep the last state. Returns what could not be written."""
        if not self.storage:
            return []
        self.storage.keeper.note(0.0, self.state, last=True)
        self.storage.close()
        return self.storage.writer.failures()

    # Orders from elsewhere: what was done is said in one line, and what can't be done is raised as ConfigError or OSError

    def choose(self, wish: str) -> str:
        """Play the preset that `wish` means."""
        return self._said(lambda storage: self._choose(storage, wish))

    def edit(self, place: Place, preset: Preset) -> str:
        """Keep a preset as it was written elsewhere; it is heard when it is chosen the next time."""
        return self._said(lambda storage: self._keep(storage, place, preset))

    def _said(self, do: Callable[[Storage], None]) -> str:
        if self.storage is None:
            raise ConfigError("presets are not kept in this run")
        before = len(self._lines)
        do(self.storage)
        return "; ".join(self._lines[before:])

    def _keep(self, storage: Storage, place: Place, preset: Preset) -> None:
        storage.save(place, preset)
        if place == self.player.place:
            self.preset, self._kept = preset, preset.sound
        self._lines.append(f"saved as preset {place} {preset.name}")

    # Presets

    def _apply(self, event: ControlEvent) -> None:
        if event.control not in ("preset", "bank", "save"):
            refused = self.player.apply(event)
            self._lines += [refused] if refused else []
            return
        if (event.control, event.value) == ("save", "flight"):
            self._lines.append(self.save_flight())
            return
        try:
            if self.storage is None:
                raise ConfigError("presets are not kept in this run")
            {"preset": self._choose, "bank": self._choose_bank, "save": self._save}[event.control](self.storage, _wish(event.value))
        except (ConfigError, OSError) as error:
            self._lines.append(f"board, {event.seconds:.3f} s: {error}")

    def _choose(self, storage: Storage, wish: str) -> None:
        if wish in STEPS_OF:
            self._recall(storage, step(storage.places(), self.player.place, STEPS_OF[wish]))
        else:
            self._recall(storage, storage.store.find(wish))

    def _choose_bank(self, storage: Storage, wish: str) -> None:
        if wish in STEPS_OF:
            self._recall(storage, step_bank(storage.places(), self.player.place, STEPS_OF[wish]))
        elif wish.isdecimal():
            place = enter_bank(storage.places(), int(wish), self.player.place.slot)
            if place is None:
                raise ConfigError(f"bank {wish} is empty")
            self._recall(storage, place)
        else:
            raise ConfigError(f"bank {wish!r} makes no sense: use a number, next or previous")

    def _recall(self, storage: Storage, place: Place | None) -> None:
        """Play the preset there. In an empty place nothing changes but the place itself: the next save goes there."""
        if place is None:
            return
        self.preset = storage.load(place) if place in storage.places() else None
        self.player.place = place
        if self.preset:
            self._lines += [f"preset {place} {self.preset.name}", *self.player.play(self.preset.sound)]
            self._kept = self.player.sound()
        else:
            self._lines.append(f"preset {place} is empty: the sound stays, and `save` keeps it there")

    def _save(self, storage: Storage, wish: str) -> None:
        place = self._free_place(storage) if wish == "new" else self.player.place if wish == "here" else storage.store.find(wish)
        sound = self.player.sound()
        known = storage.load(place).name if place in storage.places() else ""
        self.preset = Preset(known or sound.prompt or f"preset {place}", sound)
        storage.save(place, self.preset)
        self._kept = sound
        self.player.place = place
        self._lines.append(f"saved as preset {place} {self.preset.name}")

    def _free_place(self, storage: Storage) -> Place:
        """The first one from the current bank on. Raises ConfigError."""
        taken, first = set(storage.places()), Place(self.player.place.bank, 1).program
        for program in (*range(first, PROGRAMS), *range(first)):
            if Place.of_program(program) not in taken:
                return Place.of_program(program)
        raise ConfigError("every place is taken: delete a preset, or save in its place")

    def _open(self) -> None:
        """Presets, and the state of last time."""
        folder = state_folder(self.config.storage.folder)
        try:
            self.storage = Storage(folder)
            self._lines += self.storage.store.load_all()[1]
            state = load_state(folder)
        except BlockingIOError:
            self._lines.append(f"another pedal plays with {folder}: presets and state are not kept in this run")
            return
        except ConfigError as error:
            self._lines.append(str(error))
            return
        except OSError as error:
            self._lines.append(f"{folder} can't be used ({error.strerror}): presets and state are not kept; set [storage] folder")
            return
        if state and self.config.storage.restore:
            self._lines += self.player.play(state.sound)
            self.player.resume(state.stand)
            if self.player.place in self.storage.places():
                self.preset = self.storage.load(self.player.place)
                self._kept = self.preset.sound

    # Tuner and lights

    def _tune(self, now_seconds: float) -> None:
        if not self.player.on("tuner"):
            self.reading = None
        elif now_seconds - self._heard_at >= TUNE_SECONDS:
            self._heard_at = now_seconds
            self.reading = self.tuner.hear(self.counters.get(Counter.POSITION))
            if self.reading and now_seconds - self._said_at >= SAY_SECONDS:
                self._said_at = now_seconds
                self._lines.append(f"tuner: {self.reading}")

    def _alive(self, now_seconds: float) -> bool:
        periods = self.counters.get(Counter.PERIODS)
        if periods != self._periods:
            if self._periods >= 0 or periods > 0:
                self._progress_at = now_seconds
            self._periods = periods
        return now_seconds - self._progress_at < ALIVE_SECONDS

    def _standing(self, now_seconds: float, slot: SlotState, health: Health, alive: bool) -> Standing:
        player, position = self.player, self.counters.get(Counter.POSITION)
        delay_frames = round(player.delay_ms * player.spec.sample_rate / 1000)
        return Standing(
            stage=stage(alive, position, delay_frames, slot),
            slot=slot,
            deadline=health if slot is SlotState.ACTIVE else None,
            clip=self.clip_light.judge(now_seconds),
            beat_seconds=player.beat_seconds,
            press=self.surface.switches.press,
            hold=self.surface.switches.hold,
            on=frozenset(name for name in TOGGLES if player.on(name)),
            saved=self._saved(),
            trails=player.on("trails"),
            certified=self.certified,
            preset=f"{player.place} {self.preset.name}" if self.preset else str(player.place),
            question=self.consent.what if self.consent.asked else "",
            tuning=player.on("tuner"),
            reading=self.reading,
        )

    def _saved(self) -> bool:
        return self.preset is not None and self._kept == self.player.sound()


def _wish(value: float | str) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip().casefold()
