"""A soak on a sound card: ALSA's real API, paced by a server, with a guitarist at the other end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from appliance.certificate import read
from tests.system.conftest import Loopback
from tests.system.test_loopback import noise

pytestmark = pytest.mark.system
CONFIG = """
[audio]
port = "{port}"
periods = 16
[storage]
folder = "{folder}"
"""


def test_the_card_is_part_of_what_is_certified(loopback: Loopback, tmp_path: Path) -> None:
    (tmp_path / "pedal.toml").write_text(CONFIG.format(port=loopback.address, folder=tmp_path / "state"))
    command = [sys.executable, "-m", "appliance", "certify", "echo", "--card", "--minutes", "0.05", "--load", "none"]
    with loopback.guitarist(noise(60.0)):
        done = loopback.run(*command, "--config", str(tmp_path / "pedal.toml"), timeout_seconds=60)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = read(tmp_path / "state/engines/certificates/echo.json")
    assert found.remarks[0] == f"played on {loopback.address}"
    assert found.measured.seconds >= 3 and found.measured.answered > 0


def test_a_card_that_is_not_there_ends_it_with_one_line(tmp_path: Path, loopback: Loopback) -> None:
    (tmp_path / "pedal.toml").write_text(CONFIG.format(port="alsa:hw:absent", folder=tmp_path / "state"))
    command = [sys.executable, "-m", "appliance", "certify", "echo", "--card", "--minutes", "1"]
    done = loopback.run(*command, "--config", str(tmp_path / "pedal.toml"), timeout_seconds=60)
    assert done.returncode == 2 and "absent" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "state/engines").exists()
