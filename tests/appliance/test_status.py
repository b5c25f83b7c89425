"""What the pedal says of itself: over the socket, in the table, and in the file for Prometheus."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from appliance import prometheus
from appliance.causes import Cause
from appliance.cli import main
from appliance.histogram import Measure, histogram
from appliance.levels import FLOOR_DB
from appliance.stats import Counter
from appliance.status import Facts, Snapshot, StatusError, StatusSocket, fetch, runtime_folder, snapshot
from appliance.status_table import shown
from tests.appliance.test_monitor import Stage

FACTS = Facts('the "engine"', "choir", "active", 4, 592.0, 0, 1)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    one = Stage(tmp_path)
    for _ in range(5):
        one.play(40)
    one.play(None, wait_ms=150)
    for _ in range(4):
        one.play(40)
    for us in (5, 15, 3000, -2):
        histogram(one.memory.histograms, Measure.PERIOD_SLACK).add(us)
    one.memory.counters[Counter.CAPTURE_XRUNS] = 2
    return one


def status_of(stage: Stage) -> Snapshot:
    found: Snapshot = json.loads(json.dumps(snapshot(stage.monitor, FACTS)))
    return found


def text(status: Snapshot) -> str:
    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(shown(status))
    return console.export_text()


def test_the_bad_end_of_slack_is_the_low_one(stage: Stage) -> None:
    assert status_of(stage)["measures"]["period_slack"] == {"count": 4, "p50": 5, "p99": -2, "p999": -2, "worst": -2}


def test_the_table_shows_what_matters(stage: Stage) -> None:
    found = text(status_of(stage))
    for part in ("fallback", "“choir”", "starved 1", "4 wished", "2; card opened again 0 times", "60 °C, 2000 MHz", "123.0 ms"):
        assert part in found, part
    assert "certificate" not in found
    assert "none, and it plays because its owner wanted it so: void: period" in text({**status_of(stage), "forced": "void: period changed"})


def test_asking_over_the_socket(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    server = StatusSocket(path)
    server.serve(lambda: pytest.fail("nobody has asked"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
        server.serve(lambda: snapshot(stage.monitor, FACTS))
        with client.makefile("rb") as answer:
            assert json.loads(answer.read())["prompt"] == "choir"
    with pytest.raises(FileExistsError):
        StatusSocket(path)
    server.close()
    assert not path.exists()


def test_a_socket_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "status.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    StatusSocket(path).close()


def test_no_pedal_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StatusError, match="no pedal answers"):
        fetch(tmp_path / "absent")
    assert main(["status", "--socket", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_folder_is_the_services_or_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/a:{tmp_path}/b")
    assert runtime_folder() == tmp_path / "a"
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_folder() == tmp_path / "ghostnote" and runtime_folder().stat().st_mode & 0o077 == 0


def test_prometheus_can_read_it(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "ghostnote.prom"
    prometheus.write(path, stage.monitor, status_of(stage))
    families = {family.name: family for family in text_string_to_metric_families(path.read_text())}
    misses = {sample.labels["cause"]: sample.value for sample in families["ghostnote_misses"].samples}
    assert misses == {cause.value: float(cause is Cause.STARVED) for cause in Cause}
    slack = {sample.labels.get("le", sample.name): sample.value for sample in families["ghostnote_period_slack_seconds"].samples}
    assert (slack["0"], slack["1e-05"], slack["2e-05"], slack["0.005"], slack["+Inf"]) == (1, 2, 3, 4, 4)
    assert families["ghostnote_info"].samples[0].labels == {"engine": 'the "engine"', "prompt": "choir"}
    assert families["ghostnote_capture_xruns"].samples[0].value == 2
    assert [entry.name for entry in tmp_path.glob("*.prom*")] == ["ghostnote.prom"]


def test_a_minute_of_slack_and_the_levels_come_along(stage: Stage) -> None:
    found = status_of(stage)
    assert len(found["slack_ms"]) == 9 and all(len(pair) == 2 for pair in found["slack_ms"])
    assert found["levels"] == {"guitar_db": FLOOR_DB, "answer_db": FLOOR_DB, "amp_db": FLOOR_DB}
