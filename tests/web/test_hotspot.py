"""The hotspot's interface, as a phone sees it: two network namespaces of this machine with a cable between them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.web.pedal import REPO, Home, ended, until

HERE, PHONE = "10.42.0.1", "10.42.0.2"
CURL = """import http.client, sys
to = http.client.HTTPConnection(sys.argv[1], 8730, timeout=5)
to.request("GET", "/", headers={"Host": sys.argv[2]})
print(to.getresponse().status)"""


@contextmanager
def network() -> Iterator[int]:
    """A process in a network of its own. Skips the test where that is not allowed."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "300"], stderr=subprocess.DEVNULL)
    try:
        own = Path("/proc/self/ns/net").readlink()
        until(lambda: process.poll() is not None or Path(f"/proc/{process.pid}/ns/net").readlink() != own)
        if process.poll() is not None:
            pytest.skip("no network namespaces here")
        yield process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def inside(network: int, *command: str) -> str:
    entered = ["nsenter", f"--target={network}", "--net", *command]
    return subprocess.run(entered, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and `ip` (apt install iproute2)")
def test_a_phone_on_the_interface_gets_the_page_whatever_the_address_is(tmp_path: Path) -> None:
    home = Home(tmp_path, '[web]\ninterface = "hotspot"')
    with ExitStack() as stack:
        pedal, phone = (stack.enter_context(network()) for _ in range(2))
        cable = ["ip", "link", "add", "hotspot", "netns", str(pedal), "type", "veth", "peer", "name", "phone", "netns", str(phone)]
        subprocess.run(cable, check=True)
        for where, name, address in ((pedal, "hotspot", HERE), (phone, "phone", PHONE)):
            inside(where, "ip", "address", "add", f"{address}/24", "dev", name)
            for one in (name, "lo"):
                inside(where, "ip", "link", "set", one, "up")
        program = ["nsenter", f"--target={pedal}", "--net", *home.command("web")]
        started = subprocess.Popen(program, cwd=REPO, env=home.environment, stdout=subprocess.PIPE, text=True)
        process = stack.enter_context(ended(started))
        assert process.stdout
        assert [process.stdout.readline().strip() for _ in range(2)] == ["http://127.0.0.1:8730/", f"http://{HERE}:8730/"]

        def asked(where: int, address: str, host: str = "") -> int:
            return int(inside(where, sys.executable, "-c", CURL, address, host or f"{address}:8730"))

        assert asked(pedal, "127.0.0.1") == 200 and asked(phone, HERE) == 200
        assert asked(phone, HERE, "evil.example:8730") == 421 and asked(phone, HERE, "127.0.0.1") == 421
        inside(pedal, "ip", "address", "del", f"{HERE}/24", "dev", "hotspot")
        inside(pedal, "ip", "address", "add", "10.42.0.9/24", "dev", "hotspot")
        assert asked(phone, "10.42.0.9") == 200
