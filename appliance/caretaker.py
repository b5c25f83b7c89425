"""The store while the pedal plays: which engine it begins with, how another one takes its place, and how it comes back.

    activate    certificate -> consent, if it came from outside -> takeover -> on trial -> good, or back
    back        by order, or because of a crash, late blocks, an engine that is never ready: takeover by the engine before it

Each is a generator that main advances once a tick; what may take its time (a disk, a certificate) happens on a thread. One at a time.

Runs in: the main process, which calls `tick` every few milliseconds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from appliance.background import off
from appliance.certificate import CertificateError
from appliance.config import Config, ConfigError
from appliance.consent import ConsentError
from appliance.device_key import DeviceKeyError
from appliance.fit import Fit
from appliance.inbox import InboxWatch
from appliance.journal import about
from appliance.orders import Answer, Handler, OrderError, Request, wish, word
from appliance.prompt_commands import prompt_folder
from appliance.slot import SlotState
from appliance.stats import Counter, WorkerCounter
from appliance.storage import FolderLock, state_folder
from appliance.store import CURRENT, FACTORY, Held, Store, StoreError
from appliance.takeover import TakeoverError, TakeoverState
from appliance.trial import Glance, Rules, Standing, Trial, Verdict
from appliance.trust import keys_folder
from engines.bundle import BundleError, read_spec

if TYPE_CHECKING:
    from appliance.main import Supervisor

log = logging.getLogger("ghostnote")

LOOK_SECONDS = 1.0
REFUSALS = (StoreError, CertificateError, BundleError, ConfigError, DeviceKeyError, TakeoverError, ConsentError, OSError)
SWITCHED_BOARDS = ("serial", "keys")
Steps = Generator[None, None, str]  # ends with what has been done


@dataclass
class Task:
    """What is done with an engine."""

    doing: str
    steps: Steps | None
    line: str = ""
    failed: bool = False


class Caretaker:
    """`config` is that of the pedal, with the engine that it begins with. Raises ConfigError and BundleError as the pedal would."""

    def __init__(self, config: Config, wanted: bool) -> None:
        self.store: Store | None = None
        self.config = config
        self.task = Task("", None)  # under way, or the last one
        self.ordered = self.task  # the last one that somebody has ordered, and may still ask for
        self._lock: FolderLock | None = None
        self._watch: Trial | Standing | None = None
        self._watched = ""  # address of the engine that is watched
        self._came: Glance | None = None  # how things were when an engine took over that is not watched yet
        self._forced: dict[str, str] = {}  # why engines that may play have no certificate, by address; "" for those that have one
        self._looked_at = float("-inf")
        self._inbox: InboxWatch | None = None
        if config.engine.bundle == CURRENT:
            self._open(Store(state_folder(config.storage.folder) / "engines"), wanted)

    def forced(self, address: str) -> str:
        """Why this engine plays without a certificate; "" if it has one, or needs none."""
        return self._forced.get(address, "")

    def tick(self, pedal: Supervisor) -> None:
        pedal.playing.certified = not self.forced(pedal.address)
        if self.store is None or self._lock is None:
            return
        self._advance(pedal)
        now = time.monotonic()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            if self._inbox:
                for line in self._inbox.tick():
                    log.info("%s", line, extra=about("inbox"))
            self._look(self.store, pedal)

    def close(self) -> None:
        if self._inbox:
            self._inbox.close()
        if self._lock:
            self._lock.release()

    # At the start

    def _open(self, store: Store, wanted: bool) -> None:
        """A run that keeps nothing, or beside a pedal that plays, looks only."""
        try:
            if wanted:
                self._lock, self.store = FolderLock(store.folder), store
                self._say(store.begin())
                self._inbox = InboxWatch(store.folder, keys_folder(self.config)) if self.config.store.inbox else None
        except OSError as error:
            self._say(f"{store.folder} can't be used ({error.strerror or 'another pedal does'}): what is flashed is not played in this run")
        self._begin_with(store)
        if self._lock:
            self._fit(store)

    def _begin_with(self, store: Store) -> None:
        address = str(store.active())
        self.config, self._forced = _with_engine(self.config, address), {address: store.forced()}

    def _fit(self, store: Store) -> None:
        """An engine that this configuration can't play goes, rather than that nothing is heard."""
        while current := store.link(CURRENT):
            try:
                Fit.of(self.config, read_spec(self.config.engine.bundle, str(prompt_folder(self.config))))
                break
            except (ConfigError, BundleError) as error:
                store.rollback(str(error))
                self._say(f"engine {current[:12]} is taken back: {error}")
                self._begin_with(store)

    # Orders

    def orders(self, pedal: Callable[[], Supervisor]) -> dict[str, Handler]:
        """Handlers by the name of the order; `engine-task` tells how far the last one is."""

        def activate(order: Request) -> Answer:
            what, force, downgrade, later = word(order, "digest"), wish(order, "force"), wish(order, "downgrade"), wish(order, "restart")
            return self._begin("activate", lambda store: self._activate(store, pedal(), what, Licence(force, downgrade, later)))

        def ask(order: Request) -> Answer:
            what = word(order, "what")[:200]
            return self._begin("ask", lambda store: self._agreed(pedal(), what))

        return {
            "activate": activate,
            "rollback": lambda order: self._begin("rollback", lambda store: self._roll_back(store, pedal(), "the player wanted it")),
            "remove": lambda order: self._begin("remove", lambda store: self._remove(store, pedal(), word(order, "digest"))),
            "collect": lambda order: self._begin("collect", lambda store: self._collect(store, pedal())),
            "ask-consent": ask,
            "consent": lambda order: self._consent(pedal()),
            "engine-task": lambda order: self._task_facts(pedal()),
        }

    def _begin(self, doing: str, steps: Callable[[Store], Steps]) -> Answer:
        if self.store is None or self._lock is None:
            raise OrderError(f"this pedal plays {self.config.engine.bundle}, not what is flashed: set [engine] bundle to \"current\"")
        if self.ordered.steps is not None:
            raise OrderError(f"{self.ordered.doing!r} is still under way: {self.ordered.line or 'wait a moment'}")
        self.ordered = Task(doing, steps(self.store), "begun")
        self._next()
        return {"line": f"{doing}: begun"}

    def _next(self) -> None:
        """What is ordered waits for the end of what the pedal does by itself."""
        if self.task.steps is None and self.ordered.steps is not None:
            self.task = self.ordered

    def _task_facts(self, pedal: Supervisor) -> Answer:
        """How far the last order is, whatever the pedal has done by itself since; and what somebody is asked meanwhile: with a switch,
        or by word where there is none."""
        task, consent = self.ordered, pedal.playing.consent
        asks = consent.what if consent.asked else ""
        line = task.line if task.steps is None else self.task.line
        facts = {"doing": task.doing, "line": line, "finished": task.steps is None, "failed": task.failed}
        return {**facts, "asks": asks, "by_word": not has_switches(pedal)}

    def _consent(self, pedal: Supervisor) -> Answer:
        """By word, where there is no switch to hold."""
        if has_switches(pedal):
            raise OrderError("this pedal has footswitches: hold the last one, which blinks, for two seconds")
        if not pedal.playing.consent.asked:
            raise OrderError("nothing is asked")
        pedal.playing.consent.agree()
        return {"line": "agreed"}

    # What is being done

    def _advance(self, pedal: Supervisor) -> None:
        if self.task.steps is None:
            return
        try:
            next(self.task.steps)
        except StopIteration as end:
            self.task.line, self.task.steps = str(end.value), None
        except REFUSALS as error:
            self.task.line, self.task.steps, self.task.failed = _line(error), None, True
        if self.task.steps is None:
            pedal.playing.consent.close()
            level = logging.WARNING if self.task.failed else logging.INFO
            log.log(level, "%s: %s", self.task.doing, self.task.line, extra=about("engine", doing=self.task.doing, failed=self.task.failed))
            self._next()

    def _activate(self, store: Store, pedal: Supervisor, what: str, licence: Licence) -> Steps:
        if what == FACTORY:
            yield from off(store.activate_factory)
            return (yield from self._hear(store, pedal))
        held = yield from off(lambda: store.find(what))
        store.check_number(held.manifest, licence.downgrade)
        Fit.of(pedal.config, read_spec(str(held.path)))
        self.task.line = f"looking at the certificate of {held}"
        forced = yield from off(lambda: certificate_of(pedal.config, held, licence.force))
        if not held.origin.consent:
            yield from self._agreed(pedal, f"activate {held.manifest.name}?")
            yield from off(lambda: store.agree(held.digest))
        if not licence.later:
            self._forced[str(held.path)] = forced
            yield from self._take_over(pedal, str(held.path))
        yield from off(lambda: store.activate(held.digest, forced, licence.downgrade))
        if forced:
            log.warning("%s plays without a certificate, as its owner wants it: %s", held, forced, extra=about("forced", why=forced))
        minutes = pedal.config.store.healthy_minutes
        return f"{held} is on trial for {minutes:g} minutes" + (", from the next start on" if licence.later else "")

    def _roll_back(self, store: Store, pedal: Supervisor, why: str) -> Steps:
        yield from off(lambda: store.rollback(why))
        return (yield from self._hear(store, pedal))

    def _hear(self, store: Store, pedal: Supervisor) -> Steps:
        """What the disk says is what is heard; if it can't be otherwise, by a start from the beginning."""
        address = str(store.active())
        self._forced[address] = store.forced()
        try:
            yield from self._take_over(pedal, address)
        except (TakeoverError, StoreError) as error:
            if not pedal.options.patient:
                raise StoreError(f"{error}; it plays from the next start on") from None
            log.error("%s: everything starts anew", error, extra=about("engine-restart"))
            pedal.stop()
        return f"{pedal.takeover.engine or address} plays"

    def _take_over(self, pedal: Supervisor, address: str) -> Generator[None, None, None]:
        if address == pedal.address:
            return
        pedal.take_over(address)
        while pedal.takeover.state.under_way:
            self.task.line = f"{pedal.takeover.engine} is {pedal.takeover.state.value}"
            yield
        if pedal.takeover.state is not TakeoverState.DONE or pedal.address != address:
            raise StoreError(pedal.takeover.reason)
        self._came = glance(pedal)

    def _agreed(self, pedal: Supervisor, what: str) -> Steps:
        consent = pedal.playing.consent
        consent.ask(what)
        self.task.line = f"{what} Hold the last footswitch, which blinks, for two seconds"
        while consent.asked:
            yield
        given = consent.given
        consent.close()
        if not given:
            raise ConsentError(f"{what} Nobody at the pedal has agreed: ask again, and hold the switch that blinks")
        return "agreed"

    def _welcome(self, store: Store, pedal: Supervisor, digest: str) -> Steps:
        """What came by itself is shown: somebody who agrees at once need not be asked again, and it plays if it has a certificate."""
        held = yield from off(lambda: store.find(digest))
        if held.origin.consent or not has_switches(pedal):
            return f"{held} waits to be activated"
        yield from self._agreed(pedal, f"take {held.manifest.name}?")
        yield from off(lambda: store.agree(digest))
        return (yield from self._activate(store, pedal, digest, Licence()))

    def _remove(self, store: Store, pedal: Supervisor, what: str) -> Steps:
        held = yield from off(lambda: store.find(what))
        yield from off(lambda: store.remove(held.digest, in_use(pedal)))
        return f"{held} is removed"

    def _collect(self, store: Store, pedal: Supervisor) -> Steps:
        gone = yield from off(lambda: store.collect(in_use(pedal)))
        return f"{len(gone)} engines are removed: {', '.join(digest[:12] for digest in gone)}" if gone else "every engine here is in use"

    # The trial

    def _look(self, store: Store, pedal: Supervisor) -> None:
        if self.task.steps is not None or pedal.takeover.state.under_way:
            return
        if self._inbox and self._inbox.arrived:
            digest = self._inbox.arrived.pop(0)
            self.task = Task("arrival", self._welcome(store, pedal, digest))
            return
        now = glance(pedal)
        if pedal.address != self._watched or self._watch is None:
            self._watched, self._watch = pedal.address, self._watcher(store, pedal, self._came or now)
            self._came = None
        if self._watch is None:
            return
        verdict, why = self._watch.judge(now)
        if verdict is Verdict.GOOD:
            self._watch = None
            self.task = Task("trial", self._commit(store, pedal, why))
        elif verdict is Verdict.BACK:
            self._watch = None
            self.task = Task("back", self._roll_back(store, pedal, why))
            log.error("the engine goes: %s", why, extra=about("engine-back", why=why))

    def _watcher(self, store: Store, pedal: Supervisor, first: Glance) -> Trial | Standing | None:
        wanted = pedal.config.store
        rules = Rules(60 * wanted.healthy_minutes, wanted.late_blocks, wanted.ready_seconds)
        current, trial = store.link(CURRENT), store.trial()
        if not current or pedal.address != str(store.objects.path(current)):
            return None
        return Trial(rules, first) if trial else Standing(rules, first)

    def _commit(self, store: Store, pedal: Supervisor, why: str) -> Steps:
        digest = yield from off(store.commit)
        return f"engine {digest[:12]} is good: {why}"

    def _say(self, line: str) -> None:
        if line:
            log.warning("%s", line, extra=about("engine"))


@dataclass(frozen=True)
class Licence:
    """What the owner takes upon himself."""

    force: bool = False  # no certificate
    downgrade: bool = False  # an older release
    later: bool = False  # at the next start, not now


def has_switches(pedal: Supervisor) -> bool:
    return any(kind in pedal.config.board.port for kind in SWITCHED_BOARDS)


def certificate_of(config: Config, held: Held, force: bool) -> str:
    """"" if it has one that holds now; why not, if it is `force`d. Raises CertificateError."""
    from appliance.conditions import certified

    try:
        certified(config, str(held.path))
    except (CertificateError, DeviceKeyError) as error:
        if force:
            return str(error)
        raise
    return ""


def glance(pedal: Supervisor) -> Glance:
    slot = pedal.slot
    return Glance(
        seconds=time.monotonic(),
        periods=pedal.counters.get(Counter.PERIODS),
        ready=slot.state in (SlotState.READY, SlotState.ACTIVE),
        deaths=pedal.engine_restarts + (slot.state is SlotState.DEAD),
        late=pedal.counters.get(Counter.LATE_BLOCKS),
        answered=slot.counters.get(WorkerCounter.GENERATED),
    )


def in_use(pedal: Supervisor) -> set[str]:
    """Digests of what is loaded: the folder of an object is its name."""
    slots = [pedal.slot, pedal.takeover.coming]
    return {slot.settings.engine.split("/")[-2] for slot in slots if slot and "/" in slot.settings.engine}


def _with_engine(config: Config, address: str) -> Config:
    return replace(config, engine=replace(config.engine, bundle=address))


def _line(error: Exception) -> str:
    return f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)

