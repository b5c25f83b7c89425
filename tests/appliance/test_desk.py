"""Where orders come in: open for one pedal, and never a reason not to play."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from appliance.desk import Desk
from appliance.orders import NoPedalError, send


def ask(desk: Desk) -> str:
    found: list[str] = []
    client = threading.Thread(target=lambda: found.append(str(send("say")["line"])))
    client.start()
    give_up_at = time.monotonic() + 20
    while client.is_alive() and time.monotonic() < give_up_at:
        desk.tick()
    client.join()
    return found[0]


def test_the_first_pedal_takes_orders_and_a_second_one_plays_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    first = Desk({"say": lambda _: {"line": "first"}}, is_open=True)
    second = Desk({"say": lambda _: {"line": "second"}}, is_open=True)
    second.tick()
    assert caplog.messages == ["no orders are taken in this run (another pedal is running and has it)"]
    assert ask(first) == "first"
    second.close()
    first.close()
    assert not list(tmp_path.iterdir())


def test_a_run_that_keeps_nothing_takes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    desk = Desk({}, is_open=False)
    desk.tick()
    desk.close()
    with pytest.raises(NoPedalError):
        send("say", tmp_path / "orders.sock")
