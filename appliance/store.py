"""The engines on this device: which there are, which one plays, and how to come back from one that does not.

    <storage>/engines/
      objects/<digest>/engine.ghost   the bundle; the name is the SHA-256 of its manifest, and so of all that is in it
      objects/<digest>/origin.json    how it came here, who signed it, whether somebody at the pedal has agreed to it
      current, previous               links to an object; where there is none, the engine that the package brings along (`factory`)
      moving/                         what is on its way in or out
      trial.json                      a new engine on probation: written before `current` changes, counted at each start
      good.json                       what has passed its trial, and the highest release number of each name that has
      back.json                       why engines were taken back

Every change is one rename of something that is durable already; what is left of others is swept at the next start. So the power may go at
any moment, and `active` answers with an engine that plays. `changing` keeps others from changing it at once.

Runs in: the main process, on a thread where a disk may take its time; `ghostnote engine ...`; the inbox's process.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from appliance.config import Config
from appliance.objects import Objects, Origin, Share, StoreError, abandoned, held_open, now_utc, read_json
from appliance.storage import DISK, UNFINISHED, Disk, remove_file, replace_file, replace_link, state_folder
from engines.bundle import REFERENCE, Bundle, BundleError
from engines.manifest import Manifest

__all__ = ["CURRENT", "FACTORY", "PREVIOUS", "TRIAL", "Held", "OnTrial", "Origin", "Store", "StoreError"]

CURRENT, PREVIOUS, TRIAL, FACTORY = "current", "previous", "trial", "factory"
MOST_STARTS = 2  # of an engine on trial: the next one goes back to the engine before it


@dataclass(frozen=True)
class OnTrial:
    """An engine that has not yet been good for as long as it takes."""

    digest: str
    back: str  # where it goes if it is not: a digest, or "" for the factory's engine
    starts: int  # how often the pedal has started with it
    since: str  # UTC
    forced: str = ""  # why it has no certificate, if it was forced to play without


@dataclass(frozen=True)
class Held:
    """One engine in the store."""

    digest: str
    path: Path
    manifest: Manifest
    origin: Origin
    slots: tuple[str, ...]  # of CURRENT, PREVIOUS, TRIAL
    good: bool  # has passed a trial here
    failed: str  # why it was taken back last; "" if it was not

    @property
    def state(self) -> str:
        """As the life of an engine is told in docs/flashing.md; whether it is certified, its certificate says."""
        return TRIAL if TRIAL in self.slots else "good" if self.good else "taken back" if self.failed else "verified"

    def __str__(self) -> str:
        return f"{self.manifest.name} {self.manifest.number} ({self.digest[:12]})"


class Store:
    """One folder of engines. Raises StoreError for what can't be done, OSError for a disk that fails."""

    def __init__(self, folder: Path, disk: Disk = DISK, factory: Path = REFERENCE) -> None:
        self.folder, self.disk, self.factory = folder, disk, factory
        self.objects = Objects(folder, disk)

    # What is there

    def active(self) -> Path:
        """The engine to play: the current one, or if that can't be opened the one before, or the factory's."""
        wishes = (self.named(CURRENT), self.named(PREVIOUS)) if self.named(CURRENT) else ()
        return next((self.objects.path(digest) for digest in wishes if digest and self.objects.opens(digest)), self.factory)

    def link(self, name: str) -> str:
        """The digest that `current` or `previous` names, if it is there; "" is the factory's engine."""
        digest = self.named(name)
        return digest if digest and self.objects.path(digest).is_file() else ""

    def named(self, name: str) -> str:
        """The same, whether it is there or has been taken away by other hands."""
        try:
            return os.path.basename(os.readlink(self.folder / name))
        except OSError:
            return ""

    def trial(self) -> OnTrial | None:
        """The trial that is under way. One that was begun and whose link never changed is none."""
        found = self._written_trial()
        return found if found and found.digest == self.link(CURRENT) else None

    def forced(self) -> str:
        """Why the engine that plays has no certificate, if it was forced to play without; "" otherwise."""
        trial = self.trial()
        return trial.forced if trial else str(self._good()["forced"].get(self.link(CURRENT), ""))

    def engines(self) -> list[Held]:
        """All that can be opened."""
        found = []
        for digest in self.objects.digests():
            try:
                found.append(self.held(digest))
            except StoreError:
                pass  # damaged: `active` passes it over, and it can be removed
        return found

    def held(self, digest: str) -> Held:
        try:
            manifest = Bundle.open(self.objects.path(digest)).manifest
        except BundleError as error:
            raise StoreError(str(error)) from None
        good, failed, origin = digest in self._good()["engines"], str(self._read("back.json").get(digest, "")), self.objects.origin(digest)
        slots = [name for name in (CURRENT, PREVIOUS) if self.link(name) == digest]
        trial = self.trial()
        if trial and trial.digest == digest:
            slots.append(TRIAL)
        return Held(digest, self.objects.path(digest), manifest, origin, tuple(slots), good, failed)

    def find(self, wish: str) -> Held:
        """The engine whose digest begins with `wish`, or which is called so. Raises StoreError."""
        held = self.engines()
        found = [one for one in held if len(wish) >= 4 and one.digest.startswith(wish)]
        found = found or [one for one in held if one.manifest.name == wish]
        if len(found) > 1:
            raise StoreError(f"{wish!r} is {len(found)} engines: write the beginning of its digest (`ghostnote engine list`)")
        if not found:
            raise StoreError(f"there is no engine {wish!r} here: `ghostnote engine list` shows what there is, `flash` brings another")
        return found[0]

    def spared(self) -> set[str]:
        """Whatever may be played without anyone asking for it."""
        trial = self._written_trial()
        kept = {self.link(CURRENT), self.link(PREVIOUS), *([trial.digest, trial.back] if trial else [])}
        return kept - {""}

    # A new engine comes in

    def receive(self, source: BinaryIO, size: int = 0, share: Share = lambda done: None) -> AbstractContextManager[Path]:
        """A copy of a bundle, as appliance.objects says: to be admitted, and then taken in by `add`."""
        return self.objects.receive(source, size, share)

    def add(self, copy: Path, digest: str, origin: Origin) -> bool:
        """The received copy, which has been admitted as `digest`, is one of the engines. False: it has been here already."""
        with self.changing():
            return self.objects.take(copy, digest, origin)

    def agree(self, digest: str) -> None:
        """Somebody who stands before the pedal has agreed to it."""
        with self.changing():
            self.objects.agree(digest)

    # Which one plays

    def check_number(self, manifest: Manifest, downgrade: bool = False) -> None:
        """Nobody but the owner puts an old release in the place of a newer one. Raises StoreError."""
        shipped = Bundle.open(self.factory).manifest
        highest = max(int(self._good()["numbers"].get(manifest.name, 0)), shipped.number if shipped.name == manifest.name else 0)
        if manifest.number < highest and not downgrade:
            older = f"{manifest.name} {manifest.number} is older than {manifest.name} {highest}, which has been good here"
            raise StoreError(f"{older}: say --downgrade to go back")

    def activate(self, digest: str, forced: str = "", downgrade: bool = False) -> OnTrial:
        """From now on, and at the next start, this engine plays: on trial. Its certificate has been looked at, or `forced` says why not."""
        with self.changing():
            held = self.held(digest)
            self.check_number(held.manifest, downgrade)
            if not held.origin.consent:
                raise StoreError(f"{held} came from outside, and nobody at the pedal has agreed to it yet")
            if CURRENT in held.slots:
                raise StoreError(f"{held} is the engine that plays already")
            running = self.trial()
            trial = OnTrial(digest, running.back if running else self.link(CURRENT), 0, now_utc(), forced)
            self._write(f"{TRIAL}.json", asdict(trial))
            self._link(CURRENT, digest)
            return trial

    def activate_factory(self) -> None:
        """The engine that the package brings along, which needs no trial."""
        with self.changing():
            running = self.trial()
            before = running.back if running else self.link(CURRENT)
            if not self.link(CURRENT):
                raise StoreError("the engine that came with Ghostnote is the one that plays already")
            if before:
                self._link(PREVIOUS, before)
            self._link(CURRENT, "")
            self._end_trial()

    def commit(self) -> str:
        """The engine on trial is good. Returns its digest."""
        with self.changing():
            trial = self.trial()
            if trial is None:
                raise StoreError("no engine is on trial")
            good, manifest = self._good(), Bundle.open(self.objects.path(trial.digest)).manifest
            numbers = {**good["numbers"], manifest.name: max(manifest.number, int(good["numbers"].get(manifest.name, 0)))}
            forced = {**good["forced"], trial.digest: trial.forced}
            self._write("good.json", {"engines": {**good["engines"], trial.digest: now_utc()}, "numbers": numbers, "forced": forced})
            self._link(PREVIOUS, trial.back)
            self._end_trial()
            return trial.digest

    def rollback(self, why: str) -> str:
        """To the engine before a trial, or to the previous one. Returns the digest that plays from now on; "" is the factory's."""
        with self.changing():
            current, trial = self.named(CURRENT), self.trial()
            if not current:
                raise StoreError("the engine that came with Ghostnote plays: there is none to go back to")
            back = trial.back if trial else self.link(PREVIOUS)
            back = back if back != current and back and self.objects.opens(back) else ""
            self._link(CURRENT, back)
            if trial is None:
                self._link(PREVIOUS, "")
            self._end_trial()
            self._write("back.json", {**self._read("back.json"), current: why})
            return back

    def begin(self) -> str:
        """The pedal starts: sweep what was left, count a trial, and go back where that is due. Returns what there is to say about it."""
        self.objects.prepare()
        with self.changing():
            self._sweep()
            written, trial, current = self._written_trial(), self.trial(), self.named(CURRENT)
            if trial is None and (written or (self.folder / f"{TRIAL}.json").exists()):
                self._end_trial()  # begun, but the power went before the link changed; or its end was all that was missing
        if current and not self.objects.opens(current):
            return self._back(current, "can't be opened")
        if trial and trial.starts >= MOST_STARTS:
            return self._back(trial.digest, f"{trial.starts + 1} starts, and it was never good for long enough")
        if trial:
            with self.changing():
                self._write(f"{TRIAL}.json", asdict(replace(trial, starts=trial.starts + 1)))
            return f"engine {trial.digest[:12]} is on trial: start {trial.starts + 1} of {MOST_STARTS}"
        return ""

    def _back(self, digest: str, why: str) -> str:
        back = self.rollback(why)
        return f"engine {digest[:12]} is taken back ({why}): {f'engine {back[:12]}' if back else 'the one that came with Ghostnote'} plays"

    # What is no longer needed

    def remove(self, digest: str, in_use: Collection[str] = ()) -> None:
        with self.changing():
            if digest in {*self.spared(), *in_use, *held_open(self.objects.folder)}:
                raise StoreError(f"engine {digest[:12]} is in use: activate another one first")
            self.objects.discard(digest)

    def collect(self, in_use: Collection[str] = ()) -> list[str]:
        """Remove all that is not in use and never will be without being asked for. Returns their digests."""
        with self.changing():
            kept = {*self.spared(), *in_use, *held_open(self.objects.folder)}
            gone = [digest for digest in self.objects.digests() if digest not in kept]
            for digest in gone:
                self.objects.discard(digest)
            return gone

    # The files

    def _sweep(self) -> None:
        self.objects.sweep()
        for left in self.folder.glob(f".*{UNFINISHED}"):
            if abandoned(left):
                self.disk.remove(left)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else changes anything meanwhile."""
        fd = os.open(self.folder / ".changing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
            fcntl.flock(fd, fcntl.LOCK_UN)  # for a child that has been forked meanwhile too
        finally:
            os.close(fd)

    def _link(self, name: str, digest: str) -> None:
        if digest:
            replace_link(self.folder / name, f"objects/{digest}", self.disk)
        elif os.path.lexists(self.folder / name):
            remove_file(self.folder / name, self.disk)

    def _end_trial(self) -> None:
        if (self.folder / f"{TRIAL}.json").exists():
            remove_file(self.folder / f"{TRIAL}.json", self.disk)

    def _written_trial(self) -> OnTrial | None:
        try:
            return OnTrial(**self._read(f"{TRIAL}.json"))
        except TypeError:
            return None

    def _good(self) -> dict[str, dict[str, Any]]:
        found = self._read("good.json")
        return {name: found[name] if isinstance(found.get(name), dict) else {} for name in ("engines", "numbers", "forced")}

    def _read(self, name: str) -> dict[str, Any]:
        return read_json(self.folder / name)

    def _write(self, name: str, facts: Any) -> None:
        replace_file(self.folder / name, json.dumps(facts, indent=1), self.disk)


def address_of(config: Config) -> str:
    """What [engine] bundle means on this device now."""
    if config.engine.bundle != CURRENT:
        return config.engine.bundle
    return str(Store(state_folder(config.storage.folder) / "engines").active())
