"""The web page as a service beside the pedal's: what it may do, and that it does what it is for within that."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.conftest import Pedal, wait_for

pytestmark = pytest.mark.nspawn
PATIENCE_SECONDS = 30.0
MOST_MEMORY_MB = 120  # of the 160 that the unit allows
CLIENT = """import http.client, json, sys
token, method, path, body = sys.argv[1:]
def ask(method, path, body, cookie=""):
    to = http.client.HTTPConnection("127.0.0.1", 8730, timeout=10)
    head = {"Origin": "http://127.0.0.1:8730", "Cookie": cookie}
    to.request(method, path, body or None, head if method != "GET" else {"Cookie": cookie})
    return to.getresponse()
entered = ask("POST", "/api/login", json.dumps({"token": token}))
said = ask(method, path, body, (entered.getheader("set-cookie") or "").split(";")[0])
first = said.readline() if path == "/api/live" else said.read()
print(json.dumps([entered.status, said.status, first.decode()]))
"""


class ServedPage:
    """The running service, asked from inside."""

    def __init__(self, pedal: Pedal) -> None:
        self.container = pedal.container
        (self.container.share / "client.py").write_text(CLIENT)
        self.container.run("systemctl", "start", "ghostnote-web")
        as_user = ["runuser", "-u", "ghostnote-web", "--", "env", "XDG_STATE_HOME=/var/lib"]
        wait_for(lambda: "#" in self.container.run(*as_user, "ghostnote", "web", "token", check=False), PATIENCE_SECONDS, "the token")
        self.address, _, self.token = self.container.run(*as_user, "ghostnote", "web", "token").strip().partition("/#")
        wait_for(lambda: "200" in self.container.run("python3", "-c", "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8730').status)",
                                                     check=False), PATIENCE_SECONDS, "the page")  # fmt: skip

    def ask(self, method: str, path: str, body: str = "", token: str = "") -> tuple[int, int, Any]:
        """Status of the login, status of the answer, the answer."""
        said = self.container.run("python3", "/host/client.py", token or self.token, method, path, body)
        entered, status, text = json.loads(said)
        return entered, status, json.loads(text.removeprefix("data: "))


@pytest.fixture(scope="module")
def page(pedal: Pedal) -> Iterator[ServedPage]:
    yield ServedPage(pedal)
    pedal.systemctl("stop", "ghostnote-web")


def test_it_was_put_in_place_and_is_hardened(page: ServedPage) -> None:
    container = page.container
    assert container.run("systemd-analyze", "verify", "ghostnote-web.service") == ""
    assert "Overall exposure" in container.run("systemd-analyze", "security", "--threshold=20", "ghostnote-web.service")
    assert page.address == "http://127.0.0.1:8730"
    assert container.run("stat", "--format=%U %a", "/var/lib/ghostnote-web/token").strip() == "ghostnote-web 600"


def test_it_runs_as_nobody_in_particular(page: ServedPage) -> None:
    pid, container = page.container.show("MainPID", "ghostnote-web"), page.container
    status = container.run("cat", f"/proc/{pid}/status")
    user = container.run("id", "--user", "ghostnote-web").strip()
    assert f"Uid:\t{user}\t{user}" in status and "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    assert container.run("ps", "-o", "ni=", "-p", pid).strip() == "10"
    flags = {line.split()[1]: line.split()[3].split(",")[0] for line in container.run("cat", f"/proc/{pid}/mounts").splitlines()}
    assert flags["/"] == "ro" and flags["/var/lib/ghostnote-web"] == "rw"
    attempt = "import pathlib; pathlib.Path('/var/lib/ghostnote/presets/01-1.toml').write_text('mine')"
    refused = container.run("runuser", "-u", "ghostnote-web", "-g", "ghostnote", "--", "python3", "-c", attempt, check=False)
    assert "Permission denied" in refused, "presets are the pedal's to write"


def test_it_sees_the_pedal_and_orders_from_it(pedal: Pedal, page: ServedPage) -> None:
    entered, status, said = page.ask("GET", "/api/live")
    assert (entered, status) == (200, 200)
    assert said["engine"] == "echo" and said["audio"]["periods"] > 0
    assert page.ask("GET", "/api/presets", token="wrong")[:2] == (401, 401)
    wish = json.dumps({"name": "From afar", "sound": {"mix": 0.75}})
    assert page.ask("PUT", "/api/presets/4.2", wish)[1:] == (200, {"line": "saved as preset 4.2 From afar"})
    place = "/var/lib/ghostnote/presets/04-2.toml"
    wait_for(lambda: "From afar" in pedal.container.run("cat", place, check=False), PATIENCE_SECONDS, "the preset")
    assert pedal.container.run("stat", "--format=%U", place).strip() == "ghostnote"
    names = [preset["name"] for preset in page.ask("GET", "/api/presets")[2]["presets"]]
    assert "From afar" in names


def test_it_costs_little_memory(page: ServedPage) -> None:
    page.ask("GET", "/api/engines")
    status = page.container.run("cat", f"/proc/{page.container.show('MainPID', 'ghostnote-web')}/status")
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    assert peak_kb < MOST_MEMORY_MB << 10, "its control group can't be asked in every container"


def test_killed_it_comes_back_and_the_pedal_never_noticed(pedal: Pedal, page: ServedPage) -> None:
    before, main = len(pedal.cable.silences), pedal.process("main")
    pedal.container.run("systemctl", "kill", "--signal=KILL", "ghostnote-web")
    wait_for(lambda: pedal.container.show("NRestarts", "ghostnote-web") == "1", PATIENCE_SECONDS, "the restart")
    wait_for(lambda: '"generated"' in pedal.container.run("ghostnote", "status", "--json", check=False), PATIENCE_SECONDS, "the pedal")
    time.sleep(1.0)
    assert pedal.process("main") == main and len(pedal.cable.silences) == before
