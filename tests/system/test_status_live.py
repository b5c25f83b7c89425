"""`ghostnote status` beside a running pedal, as a player would call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from appliance.status import StatusError, fetch

REPO = Path(__file__).parents[2]
pytestmark = pytest.mark.system
PATIENCE_SECONDS = 60.0


def ghostnote(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "appliance", *arguments]


def test_a_running_pedal_is_found_asked_and_leaves_nothing_behind(tmp_path: Path) -> None:
    guitar, report = tmp_path / "guitar.wav", tmp_path / "report.json"
    soundfile.write(guitar, 0.1 * np.random.default_rng(0).standard_normal(44_100).astype(np.float32), 44_100)
    config = tmp_path / "run.toml"
    config.write_text(f'[engine]\nbundle = "echo"\n[audio]\nport = "file:{guitar}?loop=yes"\nperiods = 16\nsample_format = "FLOAT"\n')
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
    environment.pop("RUNTIME_DIRECTORY", None)
    pedal = subprocess.Popen(ghostnote("run", "--config", str(config), "--report", str(report)), cwd=REPO, env=environment)
    try:
        _await_answers(tmp_path / "ghostnote" / "status.sock")
        asked = subprocess.run(ghostnote("status", "--json"), cwd=REPO, env=environment, capture_output=True, text=True)
        status = json.loads(asked.stdout)
        assert status["pid"] == pedal.pid and status["engine"] == "echo" and status["health"] in ("on time", "close", "fallback")
        assert status["measures"]["period_slack"]["count"] > 300 and status["measures"]["block_slack"]["count"] >= 3
        table = subprocess.run(ghostnote("status", "--once"), cwd=REPO, env=environment, capture_output=True, text=True)
        assert table.returncode == 0 and "block: slack" in table.stdout
        assert (tmp_path / "ghostnote" / "status.sock").is_socket()
    finally:
        pedal.send_signal(signal.SIGTERM)
        pedal.wait(PATIENCE_SECONDS)
    assert not (tmp_path / "ghostnote" / "status.sock").exists()
    assert {"misses", "breaches", "shed_blocks", "period_late_us", "period_slack_us"} <= json.loads(report.read_text()).keys()
    gone = subprocess.run(ghostnote("status"), cwd=REPO, env=environment, capture_output=True, text=True)
    assert gone.returncode == 2 and gone.stderr.count("\n") == 1


def _await_answers(socket: Path) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up_at:
        try:
            if fetch(socket)["measures"]["block_slack"]["count"] >= 3:
                return
        except StatusError:
            pass
        time.sleep(0.1)
    raise AssertionError("no block was answered")
