"""`ghostnote engine flash|list|activate|rollback|remove`: from a shell, with a pedal that plays or without.

A pedal that plays is told what to do (appliance/orders.py), and says how far it is; without one the store itself is changed. A bundle comes
into the store by this process in either case: a pedal that plays has better things to do than to copy files.

Runs in: the main process of the command. As root it becomes the service's user first (appliance/as_service.py).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from appliance.as_service import CONFIG, become_service
from appliance.caretaker import certificate_of
from appliance.certificate import CertificateError
from appliance.conditions import certified
from appliance.config import Config, load_config
from appliance.consent import ConsentError
from appliance.device_key import DeviceKeyError
from appliance.fit import Fit
from appliance.flash import taken_in
from appliance.inbox import REFUSED, inbox_of
from appliance.objects import Origin, now_utc
from appliance.orders import NoPedalError, OrderError, send
from appliance.preset_commands import Commands
from appliance.status import StatusError, fetch
from appliance.storage import state_folder
from appliance.store import CURRENT, FACTORY, PREVIOUS, Held, Store, StoreError
from appliance.trust import keys_folder
from engines.bundle import Bundle, BundleError, read_spec

POLL_SECONDS = 0.1
INBOX_SECONDS = 120.0
FROM_STDIN = "-"
PIPED_COLUMNS = 200  # a script that reads the list finds an engine in a line


def add_engine_actions(actions: Commands, out: Console) -> None:
    """The actions, for the parser of `ghostnote engine`."""
    flash = _add(actions, out, "flash", "take a bundle into the pedal's store: checked, copied, read back")
    flash.add_argument("bundle", metavar="BUNDLE", help=f"a file, or {FROM_STDIN} for what comes in, over ssh say")
    flash.add_argument("--allow-unsigned", action="store_true", help="signed by nobody you trust: somebody at the pedal must agree")
    flash.set_defaults(act=lambda do, a: do.flash(a.bundle, a.allow_unsigned))
    _add(actions, out, "list", "the engines on this device").set_defaults(act=lambda do, a: do.show())
    activate = _add(actions, out, "activate", "play another engine, without a gap; it is on trial then")
    activate.add_argument("engine", metavar="ENGINE", help=f"its name, the beginning of its digest, or {FACTORY}")
    activate.add_argument("--force", action="store_true", help="without a certificate; the status light says so for as long as it plays")
    activate.add_argument("--downgrade", action="store_true", help="a release that is older than one that has been good here")
    activate.add_argument("--restart", action="store_true", help="not now, but from the pedal's next start on")
    activate.set_defaults(act=lambda do, a: do.activate(a.engine, a.force, a.downgrade, a.restart))
    rollback = _add(actions, out, "rollback", "back to the engine before this one")
    rollback.set_defaults(act=lambda do, a: do.rollback())
    remove = _add(actions, out, "remove", "remove an engine that is not in use")
    remove.add_argument("engine", nargs="?", default="", metavar="ENGINE", help="its name, or the beginning of its digest")
    remove.add_argument("--unused", action="store_true", help="all that nothing will go back to")
    remove.set_defaults(act=lambda do, a: do.remove(a.engine, a.unused))


def _add(actions: Commands, out: Console, name: str, says: str) -> argparse.ArgumentParser:
    one = actions.add_parser(name, help=says)
    one.set_defaults(command=lambda arguments: _run(arguments, out))
    one.add_argument("--config", type=Path, metavar="FILE", help="the pedal's configuration (default: the service's, as root)")
    return one


def _run(arguments: argparse.Namespace, out: Console) -> int:
    source = _source(getattr(arguments, "bundle", ""))  # root may read what the service's user may not
    serving = become_service()
    path = arguments.config or (CONFIG if serving and CONFIG.exists() else None)
    arguments.act(EngineCommands(load_config(path) if path else Config(), out, source), arguments)
    return 0


def _source(name: str) -> BinaryIO | None:
    if not name:
        return None
    if name == FROM_STDIN:
        return sys.stdin.buffer
    try:
        return open(name, "rb")
    except OSError as error:
        raise BundleError(f"{name}: no bundle can be read there ({error.strerror})") from None


class EngineCommands:
    """Raises StoreError, OrderError and what the parts of the store raise: one line each."""

    def __init__(self, config: Config, out: Console, source: BinaryIO | None = None) -> None:
        self.config, self.out, self.source = config, out, source
        self.store = Store(state_folder(config.storage.folder) / "engines")

    # In

    def flash(self, name: str, allow_unsigned: bool) -> None:
        assert self.source
        size = os.fstat(self.source.fileno()).st_size if name != FROM_STDIN else 0
        if self._may_write():
            if allow_unsigned:
                self._agree(f"take in {Path(name).name}, unsigned?")
            held, new = self._copied(self.source, name, size, allow_unsigned)
            self._say(f"{held} is here" if new else f"{held} has been here already")
            self._what_next(held)
        elif allow_unsigned:
            raise StoreError(f"{self.store.folder} is not yours: an unsigned bundle is taken in by its owner (sudo) only")
        else:
            self._through_the_inbox(name)

    def _copied(self, source: BinaryIO, name: str, size: int, allow_unsigned: bool) -> tuple[Held, bool]:
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
        shown = Console(stderr=True)
        with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as progress:
            task = progress.add_task("copying", total=size or None)

            def share(done: int) -> None:
                progress.update(task, completed=done, description="checking" if done == size else "copying")

            called = "what came in" if name == FROM_STDIN else name
            keys, origin = keys_folder(self.config), Origin("shell", None, True, now_utc())
            return taken_in(
                self.store, source, keys, origin=origin, called=called, allow_unsigned=allow_unsigned, size=size, share=share
            )

    def _may_write(self) -> bool:
        place = self.store.folder
        while not place.exists():
            place = place.parent
        return os.access(place, os.W_OK)

    def _through_the_inbox(self, name: str) -> None:
        """For who may give orders, and not write the store: the pedal takes it in, and somebody there agrees before it plays."""
        assert self.source
        inbox = inbox_of(self.store.folder)
        target = inbox / (f"stdin-{os.getpid()}.ghost" if name == FROM_STDIN else Path(name).with_suffix(".ghost").name)
        part = inbox / f".{target.name}.part"
        try:
            with part.open("wb") as file:
                while piece := self.source.read(1 << 20):
                    file.write(piece)
            part.chmod(0o644)  # the pedal's to read, whatever the umask
            part.rename(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StoreError(f"{inbox} can't be used ({error.strerror}): use sudo, or join the group ghostnote") from None
        self._await_verdict(target)

    def _await_verdict(self, target: Path) -> None:
        give_up_at, why = time.monotonic() + INBOX_SECONDS, target.parent / REFUSED / f"{target.name}.txt"
        while target.exists():
            if time.monotonic() > give_up_at:
                raise StoreError(f"{target} lies there, and no pedal takes it in: start it, or use sudo")
            time.sleep(POLL_SECONDS)
        if why.exists() and (target.parent / REFUSED / target.name).exists():
            raise StoreError(why.read_text().strip())
        self._say(f"{target.name} is in the store: `ghostnote engine list`")

    def _what_next(self, held: Held) -> None:
        try:
            certificate = certified(self.config, str(held.path))
        except (CertificateError, DeviceKeyError) as error:
            self._say(f"{error}")
            self._say(f"next: ghostnote certify {held.digest[:12]}    then: ghostnote engine activate {held.digest[:12]}")
            return
        self._say(f"{certificate}")
        self._say(f"next: ghostnote engine activate {held.digest[:12]}")

    # What is here

    def show(self) -> None:
        table = Table(title=str(self.store.folder), title_justify="left", box=None)
        for title in ("engine", "release", "digest", "plays", "state", "signed by"):
            table.add_column(title)
        current = self.store.link(CURRENT)
        shipped = Bundle.open(self.store.factory)
        plays = FACTORY if current else f"{CURRENT}, {FACTORY}"
        table.add_row(shipped.manifest.name, str(shipped.manifest.number), shipped.digest[:12], plays, "good", "came with Ghostnote")
        order = {CURRENT: 0, PREVIOUS: 1}
        for held in sorted(self.store.engines(), key=lambda one: (min((order.get(slot, 2) for slot in one.slots), default=2), one.digest)):
            manifest, key = held.manifest, held.origin.key or "nobody"
            state = held.state + ("" if held.origin.consent else ", waits for consent")
            table.add_row(manifest.name, str(manifest.number), held.digest[:12], ", ".join(held.slots), state, key)
        if not self.out.is_terminal:
            self.out.width = PIPED_COLUMNS
        self.out.print(table, highlight=False)
        trial, forced = self.store.trial(), self.store.forced()
        if trial:
            self._say(f"on trial since {trial.since}, started {trial.starts} times")
        if forced:
            self._say(f"the one that plays was forced: {forced}")
        for held in self.store.engines():
            if held.failed and not held.slots:
                self._say(f"{held} was taken back: {held.failed}")

    # Which one plays

    def activate(self, engine: str, force: bool, downgrade: bool, restart: bool) -> None:
        words: dict[str, Any] = {"digest": engine, "force": force, "downgrade": downgrade, "restart": restart}
        self._ordered_or(lambda: self._activate_on_disk(engine, force, downgrade), "activate", words)

    def _activate_on_disk(self, engine: str, force: bool, downgrade: bool) -> str:
        if engine == FACTORY:
            self.store.activate_factory()
            return "the engine that came with Ghostnote plays from the next start on"
        held = self.store.find(engine)
        self.store.check_number(held.manifest, downgrade)
        Fit.of(self.config, read_spec(str(held.path)))
        forced = certificate_of(self.config, held, force)
        if not held.origin.consent:
            self._type_yes(f"{held} came from outside ({held.origin.how}).")
            self.store.agree(held.digest)
        self.store.activate(held.digest, forced, downgrade)
        return f"{held} plays from the next start on, on trial"

    def rollback(self) -> None:
        def on_disk() -> str:
            back = self.store.rollback("the player wanted it")
            return f"{self.store.held(back) if back else 'the engine that came with Ghostnote'} plays from the next start on"

        self._ordered_or(on_disk, "rollback", {})

    def remove(self, engine: str, unused: bool) -> None:
        if bool(engine) == unused:
            raise StoreError("say which engine, or --unused")

        def on_disk() -> str:
            if unused:
                gone = self.store.collect()
                return f"{len(gone)} engines are removed" if gone else "every engine here is in use"
            held = self.store.find(engine)
            self.store.remove(held.digest)
            return f"{held} is removed"

        self._ordered_or(on_disk, "collect" if unused else "remove", {"digest": engine})

    # With a pedal that plays, or without

    def _ordered_or(self, on_disk: Callable[[], str], order: str, words: Mapping[str, Any]) -> None:
        try:
            send(order, **words)
        except NoPedalError:
            self._no_other_pedal()
            self.store.objects.prepare()
            self._say(on_disk())
            return
        self._follow()

    def _no_other_pedal(self) -> None:
        """One that plays and takes no orders would not know what became of its engines."""
        try:
            fetch()
        except StatusError:
            return
        raise OrderError("a pedal is playing and takes no orders: stop it first")

    def _follow(self) -> None:
        """Say how far the pedal is, until it is done. Raises OrderError."""
        said = ""
        while not (task := send("engine-task"))["finished"]:
            if task["asks"] and task["by_word"]:
                self._type_yes(task["asks"])
                send("consent")
            elif task["line"] != said:
                said = task["line"]
                self._say(said)
            time.sleep(POLL_SECONDS)
        if task["failed"]:
            raise OrderError(task["line"])
        self._say(task["line"])

    def _agree(self, what: str) -> None:
        """Somebody at the pedal, or where there is none at this terminal."""
        try:
            send("ask-consent", what=what)
        except NoPedalError:
            self._type_yes(what)
            return
        self._follow()

    def _type_yes(self, what: str) -> None:
        try:
            with open("/dev/tty", "r+b", buffering=0) as terminal:
                terminal.write(f"{what} Type yes to agree: ".encode())
                answer = terminal.readline().decode(errors="replace")
        except OSError:
            raise ConsentError(f"{what} Nobody is here to agree: do it at a terminal, or at a pedal that plays") from None
        if answer.strip().lower() != "yes":
            raise ConsentError("nobody has agreed: nothing has changed")

    def _say(self, line: str) -> None:
        self.out.print(line, highlight=False, markup=False, soft_wrap=True)
