"""Orders over the real socket: what is asked is done, and no client can hold the pedal up."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.orders import (
    CLIENT_SECONDS,
    LARGEST_BYTES,
    MOST_CLIENTS,
    Answer,
    NoPedalError,
    OrderError,
    Orders,
    Request,
    send,
    wish,
    word,
)


class Pedal:
    """Serves on a thread, as the main process does at each tick, and counts how long a tick took at most."""

    def __init__(self, path: Path) -> None:
        self.orders, self.done, self.longest_seconds = Orders(path), list[Request](), 0.0
        self.handlers = {"activate": self.activate, "list": lambda _: {"engines": [1, 2]}, "long": lambda _: {"line": "x" * 3_000_000}}
        self.on = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def activate(self, request: Request) -> Answer:
        digest = word(request, "digest")
        if digest == "bad":
            raise OrderError("no such engine")
        self.done.append(request)
        return {"line": f"{digest} it is", "forced": wish(request, "force")}

    def _run(self) -> None:
        while self.on:
            began = time.perf_counter()
            self.orders.serve(self.handlers)
            self.longest_seconds = max(self.longest_seconds, time.perf_counter() - began)
            time.sleep(0.001)

    def close(self) -> None:
        self.on = False
        self._thread.join()
        self.orders.close()


@pytest.fixture
def pedal(tmp_path: Path) -> Iterator[Pedal]:
    one = Pedal(tmp_path / "orders.sock")
    yield one
    one.close()


def connect(pedal: Pedal) -> socket.socket:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.settimeout(5.0)
    one.connect(str(pedal.orders.path))
    return one


def said(connection: socket.socket) -> Any:
    with connection, connection.makefile("rb") as answer:
        return json.loads(answer.read())


def test_an_order_is_carried_out_and_answered(pedal: Pedal) -> None:
    assert send("activate", pedal.orders.path, digest="abc", force=True) == {"line": "abc it is", "forced": True}
    assert send("list", pedal.orders.path)["engines"] == [1, 2]
    assert [request["digest"] for request in pedal.done] == ["abc"]


def test_what_is_refused_is_answered_by_a_line(pedal: Pedal) -> None:
    wrong = {"no such engine": {"digest": "bad"}, "needs 'digest', a text": {}, "true or false": {"digest": "a", "force": 1}}
    for why, words in wrong.items():
        with pytest.raises(OrderError, match=why):
            send("activate", pedal.orders.path, **words)
    with pytest.raises(OrderError, match="'dance' is unknown here: use activate, list, long"):
        send("dance", pedal.orders.path)


@pytest.mark.parametrize("request_", [b"\n", b"[]\n", b"{\n", b'{"order": 1}\n', b"\xff\xfe\n", b'{"order": "list"', b"[" * 60_000 + b"\n"])
def test_what_is_no_order_is_answered_by_a_line(pedal: Pedal, request_: bytes) -> None:
    connection = connect(pedal)
    connection.sendall(request_)
    connection.shutdown(socket.SHUT_WR)
    assert set(said(connection)) == {"error"}


def test_an_order_that_never_ends_is_not_read_to_its_end(pedal: Pedal) -> None:
    connection = connect(pedal)
    try:
        connection.sendall(b"{" + b" " * (4 * LARGEST_BYTES))
    except OSError:
        pass  # it has hung up already
    try:
        assert "not read" in said(connection)["error"]
    except ConnectionResetError:
        pass


def test_silent_and_slow_clients_hold_nobody_up(pedal: Pedal) -> None:
    silent = [connect(pedal) for _ in range(MOST_CLIENTS - 2)]
    deaf = connect(pedal)
    deaf.sendall(b'{"order": "long"}\n')
    began = time.monotonic()
    assert send("list", pedal.orders.path)["engines"]
    assert time.monotonic() - began < CLIENT_SECONDS
    assert len(send("long", pedal.orders.path)["line"]) == 3_000_000, "however long it takes to read"
    time.sleep(CLIENT_SECONDS + 0.5)
    assert not pedal.orders._clients, "and after a while they are forgotten"
    for connection in (*silent, deaf):
        connection.close()
    assert pedal.longest_seconds < 0.5


def test_more_clients_than_there_is_room_for_wait(pedal: Pedal) -> None:
    silent = [connect(pedal) for _ in range(MOST_CLIENTS)]
    assert send("list", pedal.orders.path)["engines"], "once the silent ones are forgotten"
    for connection in silent:
        connection.close()


def test_a_client_that_hangs_up_is_no_trouble(pedal: Pedal) -> None:
    for asked in (b"", b'{"order": "long"}\n'):
        connection = connect(pedal)
        connection.sendall(asked)
        connection.close()
    assert send("list", pedal.orders.path)["engines"]


def test_the_socket_is_for_owner_and_group_only(pedal: Pedal) -> None:
    assert stat.S_IMODE(os.stat(pedal.orders.path).st_mode) == 0o660


def test_one_pedal_at_a_time_and_a_dead_one_is_no_hindrance(pedal: Pedal, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        Orders(pedal.orders.path)
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(left))
    with pytest.raises(NoPedalError, match="no pedal is playing"):
        send("list", left)
    Orders(left).close()
    assert not left.exists()
    with pytest.raises(NoPedalError):
        send("list", left)
