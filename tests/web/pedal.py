"""A real pedal and a real page beside it, as a player would start them: files for a sound card, `echo` for an engine."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from appliance.status import StatusError, fetch

REPO = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0


@dataclass
class Home:
    """One folder with all that a pedal and its page keep."""

    folder: Path
    config: str = ""  # more of the configuration
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}
        self.environment |= {"OMP_NUM_THREADS": "1"}
        for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY"):
            self.environment.pop(name, None)
        guitar = self.folder / "guitar.wav"
        soundfile.write(guitar, 0.1 * np.random.default_rng(0).standard_normal(44_100).astype(np.float32), 44_100)
        audio = f'[audio]\nport = "file:{guitar}?loop=yes"\nperiods = 16\nsample_format = "FLOAT"\n'
        self.toml.write_text(f"{audio}{self.config or '[engine]' + chr(10) + 'bundle = ' + chr(34) + 'echo' + chr(34)}\n")

    @property
    def toml(self) -> Path:
        return self.folder / "pedal.toml"

    @property
    def storage(self) -> Path:
        return self.folder / "state" / "ghostnote"

    @property
    def inbox(self) -> Path:
        return self.storage / "engines" / "inbox"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "appliance", *arguments, "--config", str(self.toml)]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(*arguments), cwd=REPO, env=self.environment, stdout=subprocess.PIPE, text=True)

    @contextmanager
    def pedal(self) -> Iterator[None]:
        """Plays, and has answered its first blocks."""
        with ended(self.start("run")):
            until(lambda: self._answered() >= 3)
            yield

    def _answered(self) -> int:
        try:
            return int(fetch(self.folder / "ghostnote" / "status.sock")["worker"]["generated"])
        except StatusError:
            return 0

    @contextmanager
    def web(self) -> Iterator[Web]:
        with ended(self.start("web", "--listen", "127.0.0.1:0")) as process:
            assert process.stdout
            address = process.stdout.readline().strip()
            token = (self.folder / "state" / "ghostnote-web" / "token").read_text().strip()
            yield Web(address.removeprefix("http://").rstrip("/"), token, process)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(true: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def line(self) -> str:
        return str(json.loads(self.body)["line"])


@dataclass
class Web:
    """A running page, for who is no browser."""

    host: str  # with its port
    token: str
    process: subprocess.Popen[str]
    cookie: str = ""

    @property
    def address(self) -> str:
        return f"http://{self.host}/#{self.token}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """With what the pedal's own page would send, but for `headers` (an empty one is left out; `_` stands for `-`)."""
        own = {"Host": self.host, "Cookie": self.cookie, "Origin": f"http://{self.host}" if method not in ("GET", "HEAD") else ""}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE_SECONDS)
        data = json.dumps(body) if isinstance(body, dict) else body
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if data is not None and "Content-Length" not in own:
            own["Content-Length"] = str(len(data))
        for name, value in own.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        if data is not None:
            connection.send(data.encode() if isinstance(data, str) else data)
        said = connection.getresponse()
        answer = Answer(said.status, {name.lower(): value for name, value in said.getheaders()}, said.read())
        connection.close()
        return answer

    def enter(self) -> Answer:
        answer = self.ask("POST", "/api/login", {"token": self.token})
        self.cookie = answer.headers.get("set-cookie", "").split(";")[0]
        return answer
