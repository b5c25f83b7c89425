"""What the running pedal is asked to do: a Unix socket beside that of its status, for its own user and group only.

    one connection, one JSON object in a line      {"order": "activate", "digest": "..."}
    one JSON object in a line back                 {"line": "..."} and what else belongs to it, or {"error": "one line"}

Nothing that a client does holds the pedal up: requests are bounded in size and in time, answers go out as fast as they are read, and a tick
takes up no more than a few connections.

Runs in: the main process (`Orders`), and in whatever asks (`send`).
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from appliance.status import SERVICE_FOLDER, runtime_folder

SOCKET_NAME = "orders.sock"
LARGEST_BYTES = 65_536  # of a request
MOST_CLIENTS = 8  # at once; who comes later waits
CLIENT_SECONDS = 2.0  # from connecting to having read the answer
PATIENCE_SECONDS = 5.0  # of `send`
_ABSENT = (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, NotADirectoryError)

Request = Mapping[str, Any]
Answer = Mapping[str, Any]
Handler = Callable[[Request], Answer]
Handlers = Mapping[str, Handler]


class OrderError(Exception):
    """An order that is not carried out: one line that says why. On the pedal's side, what a handler raises is what the client reads."""


class NoPedalError(OrderError):
    """There is nobody to ask."""


class Client:
    """One connection, from its first byte to the last of the answer."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self.connection, self.until = connection, until
        self._asked, self._answer = b"", b""

    def advance(self, answer: Callable[[bytes], bytes], now: float) -> bool:
        """Do what can be done without waiting. Whether there is more to come."""
        try:
            if not self._answer and (request := self._request()) is not None:
                self._answer = answer(request)
            if self._answer:
                self._answer = self._answer[self.connection.send(self._answer) :]
                return bool(self._answer) and now < self.until
        except BlockingIOError:
            pass
        except OSError:
            return False
        return now < self.until

    def _request(self) -> bytes | None:
        """None as long as it is not whole."""
        while True:
            piece = self.connection.recv(LARGEST_BYTES)
            self._asked += piece
            if not piece or b"\n" in piece or len(self._asked) > LARGEST_BYTES:
                return self._asked


class Orders:
    """`serve` at every tick."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError, also where another pedal answers at `path`."""
        self.path, self._clock = path, clock
        self._clients: list[Client] = []
        if path.exists() and _answers(path):
            raise FileExistsError(17, "another pedal is running and has it")
        path.unlink(missing_ok=True)  # of one that was killed
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))
        path.chmod(0o660)  # whoever may order may change what plays
        self._socket.listen(MOST_CLIENTS)

    def serve(self, handlers: Handlers) -> None:
        now = self._clock()
        self._accept(now)
        for client in list(self._clients):
            if not client.advance(lambda request: answered(request, handlers), now):
                client.connection.close()
                self._clients.remove(client)

    def close(self) -> None:
        for client in self._clients:
            client.connection.close()
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _accept(self, now: float) -> None:
        while len(self._clients) < MOST_CLIENTS:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # nobody asks
            connection.setblocking(False)
            self._clients.append(Client(connection, now + CLIENT_SECONDS))


def answered(request: bytes, handlers: Handlers) -> bytes:
    """What goes back: an order that makes no sense, or can't be carried out, is answered by a line."""
    try:
        found: Answer = _handled(request, handlers)
    except OrderError as error:
        found = {"error": str(error)}
    return json.dumps(found, ensure_ascii=False).encode() + b"\n"


def _handled(request: bytes, handlers: Handlers) -> Answer:
    if len(request) > LARGEST_BYTES:
        raise OrderError(f"an order of more than {LARGEST_BYTES} bytes is not read")
    try:
        words = json.loads(request)
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, dict) or not isinstance(words.get("order"), str):
        raise OrderError('that is no order: send {"order": NAME} and what belongs to it in one line of JSON')
    handler = handlers.get(words["order"])
    if handler is None:
        raise OrderError(f"order {words['order'][:40]!r} is unknown here: use {', '.join(sorted(handlers))}")
    return handler(words)


def word(request: Request, name: str, default: str | None = None) -> str:
    """A text that belongs to an order. Raises OrderError."""
    value = request.get(name, default)
    if not isinstance(value, str):
        raise OrderError(f"order {request['order']!r} needs {name!r}, a text")
    return value


def wish(request: Request, name: str) -> bool:
    """A switch that belongs to an order, off if it is not named. Raises OrderError."""
    value = request.get(name, False)
    if not isinstance(value, bool):
        raise OrderError(f"order {request['order']!r}: {name!r} must be true or false")
    return value


def send(order: str, path: Path | None = None, **words: Any) -> dict[str, Any]:
    """Ask the pedal at `path`, or the one that the service or this user runs. Raises OrderError."""
    for candidate in [path] if path else socket_paths():
        try:
            answer = _ask(candidate, {"order": order, **words})
        except PermissionError:
            raise OrderError(f"{candidate} is not yours to use: use sudo, or join the group ghostnote") from None
        except _ABSENT:
            continue
        except (OSError, ValueError) as error:
            raise OrderError(f"the pedal at {candidate} does not answer ({error}): try again") from None
        if "error" in answer:
            raise OrderError(str(answer["error"]))
        return answer
    raise NoPedalError("no pedal is playing: start it with `ghostnote run` or `systemctl start ghostnote`")


def socket_paths() -> list[Path]:
    """Where a pedal may listen: this user's, then the service's."""
    return [runtime_folder() / SOCKET_NAME, SERVICE_FOLDER / SOCKET_NAME]


def lines(answer: Answer) -> Iterable[str]:
    """What of an answer is for a person."""
    return [str(line) for line in answer.get("lines", [answer["line"]] if answer.get("line") else [])]


def _ask(path: Path, request: Request) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answer:
            found = json.loads(answer.read())
    if not isinstance(found, dict):
        raise ValueError("no answer")
    return found


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
