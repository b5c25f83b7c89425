"""What became of an order can be asked for, whatever the pedal has done by itself since, and what it does by itself is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.main import Supervisor
from tests.appliance.stage_takeover import active
from tests.appliance.test_caretaker import Shell, Wait, configured, play, store_of
from tests.appliance.tiny_engines import SIGNED, UNSIGNED, flash, tiny


def test_an_arrival_does_not_hide_why_an_activation_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    store = store_of(tmp_path)
    store.begin()
    wanted = flash(store, tiny(tmp_path / "wanted.ghost", "wanted"), SIGNED)
    newcomer = flash(store, tiny(tmp_path / "newcomer.ghost", "newcomer"), UNSIGNED)
    before, after = {}, {}

    def script(pedal: Supervisor) -> Iterator[Wait]:
        caretaker, shell = pedal.caretaker, Shell(pedal, tmp_path)
        assert caretaker._inbox
        yield active(pedal)
        caretaker._inbox.arrived.append(newcomer)
        yield shell.order("activate", digest=wanted)
        yield lambda: caretaker.task.doing == "arrival" and shell.done()
        yield shell.order("engine-task")
        after.update(shell.answer)
        # and the other way round: what it does by itself has begun
        caretaker._inbox.arrived.append(newcomer)
        yield lambda: caretaker.task.doing == "arrival" and not shell.done()
        answer = caretaker.orders(lambda: pedal)["activate"]({"digest": wanted})
        assert answer["line"] == "activate: begun" and caretaker.task.doing == "arrival"
        yield lambda: caretaker.task.doing == "activate" and shell.done()
        yield shell.order("engine-task")
        before.update(shell.answer)

    play(configured(tmp_path), script)
    for answer in (before, after):
        assert answer["doing"] == "activate" and answer["finished"] and answer["failed"]
        assert answer["line"].startswith("no certificate for engine " + wanted[:12])
