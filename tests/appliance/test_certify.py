"""The soak behind a certificate: real ones, short, as a command; and what is judged, on rows that are made up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance import certificate
from appliance.certificate import CertificateError, check, read
from appliance.certify import CHANGE_SECONDS, SoakJob, certify, golden_lines, script, soak_config
from appliance.certify_command import engine_of
from appliance.cli import main
from appliance.conditions import certified, clock_limits, conditions_now, governors
from appliance.config import Config, parse_config
from appliance.device_key import DeviceKey
from appliance.disturbance import LOADS
from appliance.gpu_check import Line
from appliance.report import Report, Session, collect
from appliance.shared import LEDGER, Layout, SharedMemory
from appliance.soaked import MARGIN, Findings, course, reasons, steps_allowed
from appliance.status import StatusError, fetch
from appliance.store import Store, StoreError
from appliance.vitals import MachineVitals
from engines.bundle import REFERENCE, Bundle, BundleError, read_spec, write_bundle
from engines.engine import EngineSpec
from tests.appliance.test_certificate import CONDITIONS, MEASURED
from tests.appliance.test_disturbance import alive, until
from tests.appliance.tiny_engines import flash, tiny

REPO = Path(__file__).parents[2]
SOAK_SECONDS = 6.0
SPEC = EngineSpec("x", 44_100, 16_384, 0, ("a", "b", "c"), 4, 16)
MS = 1_000_000


def configured(folder: Path, text: str = "") -> Path:
    """A configuration whose pedal keeps its things in `folder`; a deep queue, because this machine may do something else for 46 ms."""
    path = folder / "pedal.toml"
    path.write_text(
        f'{text}\n[audio]\nport = "file:none"\nperiods = 16\nsample_format = "FLOAT"\n[storage]\nfolder = "{folder / "state"}"\n'
    )
    return path


def command(folder: Path, *arguments: str, minutes: float = SOAK_SECONDS / 60) -> list[str]:
    base = [sys.executable, "-m", "appliance", "certify", "--config", str(folder / "pedal.toml"), "--minutes", f"{minutes:.3f}"]
    return [*base, *arguments]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "COLUMNS": "160"}


def answered(socket: Path) -> int:
    """Blocks, by the pedal that plays."""
    try:
        return int(fetch(socket)["worker"]["generated"])
    except StatusError:
        return 0


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in map(int, children):
        found |= {child, *descendants(child)}
    return found


# Real soaks


@pytest.fixture(scope="module", name="echo")
def _echo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("echo")
    configured(folder)
    done = subprocess.run(command(folder, "echo"), cwd=REPO, env=environment(folder), capture_output=True, text=True, timeout=120)
    return folder, done


@pytest.mark.system
def test_a_soak_under_load_gives_a_certificate(echo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, done = echo
    assert done.returncode == 0, done.stdout + done.stderr
    path, key = folder / "state/engines/certificates/echo.json", DeviceKey.open(folder / "state")
    config = parse_config((folder / "pedal.toml").read_text(), "test")
    now = replace(conditions_now(config, "echo"), ghostnote=read(path).conditions.ghostnote)  # a test may run while code is being written
    found = check(path.parent, "echo", now, key.public)
    with pytest.raises(CertificateError, match="periods changed 16 -> 3"):
        certified(replace(config, audio=replace(config.audio, periods=3)), "echo")
    measured = found.measured
    assert found.passed and found.disturbance == LOADS["stage"] and measured.seconds >= SOAK_SECONDS
    assert measured.blocks >= SOAK_SECONDS * 44_100 / 16_384 - 3 and measured.late == 0 and measured.answered == measured.blocks
    assert sum(count for _, count in measured.slack_bins) == measured.block_slack["count"] >= measured.blocks
    assert sum(count for _, count in measured.answered_bins) == measured.answered
    assert 150_000 < measured.allowance_us < 163_000 and measured.block_slack["worst"] > 10_000
    assert measured.course and measured.course[-1][0] <= measured.seconds + 1
    assert all(mb > 10 for mb in measured.resident_mb.values())
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "PASS" in done.stdout and "no sound card was part of it" in done.stdout


@pytest.mark.system
def test_a_shown_certificate_and_a_tampered_one(
    echo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, config = echo[0] / "state/engines/certificates/echo.json", ["--config", str(echo[0] / "pedal.toml")]
    assert main(["certify", *config, "--show", str(path)]) == 0
    shown = capfd.readouterr().out
    assert "PASS" in shown and "void if changed" in " ".join(shown.split())
    other = tmp_path / "other.json"
    other.write_text(path.read_text().replace('"late": 0', '"late": 1', 1))
    assert main(["certify", *config, "--show", str(other)]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "is not what its key has signed" in said


@pytest.mark.system
def test_an_engine_that_is_too_slow_fails(tmp_path: Path) -> None:
    """The shipped engine at its most steps, with a budget that leaves a millisecond."""
    config = parse_config(configured(tmp_path, "[engine]\nsteps = 16\nbudget_ms = 24.2").read_text(), "test")
    said: list[Line] = []
    found = certify(SoakJob(config, "reference", 3 / 60, LOADS["none"], folder=tmp_path), lambda seconds, rows: None, said.append)
    assert found.verdict == certificate.FAIL and found.measured.late > 0, found.measured
    assert any("blocks late" in reason or "none of" in reason for reason in found.reasons)
    assert found.measured.steps_allowed < 16 and found.conditions.steps == 16
    assert len(found.golden) >= 6 and all(line.passed for line in said)


@pytest.mark.system
def test_wrong_golden_vectors_fail(tmp_path: Path, found: Findings) -> None:
    bundle = Bundle.open(REFERENCE)
    files = {entry.path: bundle.read(entry.path) for entry in bundle.manifest.files}
    golden = json.loads(files["golden.json"])
    golden["step"]["outputs"]["v"]["rms"] += 0.5
    files["golden.json"] = json.dumps(golden).encode()
    facts = {name: value for name, value in bundle.manifest.facts.items() if name not in ("schema", "files")}
    write_bundle(tmp_path / "wrong.ghost", facts, files)
    wrong = [line for line in golden_lines(str(tmp_path / "wrong.ghost"), "onnxruntime") if not line.passed]
    assert [line.what for line in wrong] == ["graph step"]
    assert next(reasons(replace(found, golden=wrong), MEASURED)).startswith("graph step: ")


@pytest.mark.system
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_nothing_is_left_of_a_soak_that_is_cut_short(tmp_path: Path, how: signal.Signals, code: int) -> None:
    configured(tmp_path)
    job = subprocess.Popen(command(tmp_path, "echo", minutes=10), cwd=REPO, env=environment(tmp_path), stdout=subprocess.DEVNULL)
    expected = 2 + LOADS["stage"].copiers + LOADS["stage"].writers + LOADS["stage"].spinners  # audio and worker among them
    assert until(lambda: len(descendants(job.pid)) >= expected, 60)
    time.sleep(1.0)
    processes = descendants(job.pid)
    job.send_signal(how)
    assert job.wait(20) == code
    assert until(lambda: not any(alive(pid) for pid in processes)), "the kernel ends what its parent can't"
    assert not (tmp_path / "state/engines").exists(), "an unfinished soak is no certificate"


@pytest.mark.system
def test_it_works_while_the_pedal_plays(tmp_path: Path, echo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The playing one does not notice; the certificate says that it was there."""
    configured(tmp_path)
    guitar = next((REPO / "appliance/samples").glob("*.flac"))
    text = (tmp_path / "pedal.toml").read_text().replace("file:none", f"file:{guitar}?loop=yes")
    (tmp_path / "playing.toml").write_text(text + '[engine]\nbundle = "echo"\n')
    play = [sys.executable, "-m", "appliance", "run", "--config", str(tmp_path / "playing.toml"), "--report", str(tmp_path / "report.json")]
    with subprocess.Popen(play, cwd=REPO, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as pedal:
        try:
            assert until(lambda: answered(tmp_path / "ghostnote/status.sock") >= 2, 60)
            done = subprocess.run(
                command(tmp_path, "echo", "--load", "none", minutes=0.05),
                cwd=REPO,
                env=environment(tmp_path),
                capture_output=True,
                text=True,
            )
            assert "the pedal was playing" in done.stdout, done.stdout + done.stderr
        finally:
            pedal.terminate()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["engine_restarts"] == report["audio_restarts"] == report["silent_frames"] == 0
    assert (tmp_path / "state/engines/certificates/echo.json").exists()


def test_what_is_certified_is_the_pedal_as_configured(tmp_path: Path) -> None:
    config = parse_config(configured(tmp_path, "[realtime]\npriority = 60\nworker_nice = -8\nworker_core = 1").read_text(), "test")
    job = SoakJob(config, "echo", 0.5, LOADS["none"])
    alone, beside = (soak_config(job, SPEC, tmp_path, beside) for beside in (False, True))
    assert alone.realtime == config.realtime and alone.audio.periods == 16 and alone.audio.port.endswith("?loop=yes")
    assert (beside.realtime.priority, beside.realtime.worker_nice, beside.realtime.worker_core) == (59, -3, 1)
    assert not alone.monitor.governor and not alone.monitor.status and alone.storage.folder == str(tmp_path)
    assert soak_config(replace(job, on_card=True), SPEC, tmp_path, False).audio.port == "file:none"


def test_the_player_of_a_soak_does_everything() -> None:
    lines = list(script(SPEC, 200.0))
    assert len(lines) == 200 / CHANGE_SECONDS
    assert {"prompt 0", "prompt 1", "prompt 2", "morph 0.5", "stray 0.7", "freeze on", "jam on"} <= {
        line.split(" ", 1)[1] for line in lines
    }


# What is judged


def rows(count: int, work_ms: float = 40.0, step_ms: float = 5.0, steps: int = 4, allowance_ms: float = 160.0) -> Any:
    made = np.zeros(count, LEDGER)
    made["start"] = np.arange(count) * SPEC.block_frames
    made["captured"] = 1 + np.arange(count) * 372 * MS
    made["started"] = made["captured"] + MS
    made["encoded"] = made["started"] + 10 * MS
    made["last_step"] = made["encoded"] + round(steps * step_ms * MS)
    made["written"] = made["started"] + round(work_ms * MS)
    made["due"] = made["captured"] + round(allowance_ms * MS)
    made["steps"], made["mode"] = steps, 1
    return made


@pytest.mark.parametrize(
    ("budget_ms", "allowed"),
    [(200.0, 16), ((1 + 20 + 16 * 5) * (1 + MARGIN) + 0.1, 16), ((1 + 20 + 16 * 5) * (1 + MARGIN) - 0.1, 15), (46.2, 4), (20.0, 0)],
)
def test_steps_allowed_are_those_whose_tail_and_margin_fit(budget_ms: float, allowed: int) -> None:
    assert steps_allowed(rows(50), 16, 1000 * budget_ms) == allowed


def test_steps_allowed_follow_the_tail_not_the_median() -> None:
    slow = rows(200)
    slow["written"][:3] += 60 * MS
    assert steps_allowed(slow, 16, 150_000) < steps_allowed(rows(200), 16, 150_000) == 16


def test_an_engine_that_tells_no_steps_is_allowed_what_it_played() -> None:
    silent = rows(20)
    silent["last_step"] = silent["encoded"]
    assert steps_allowed(silent, 16, 160_000) == 4
    assert steps_allowed(rows(0), 16, 160_000) == 0


@pytest.fixture(name="found")
def _found() -> Iterator[Findings]:
    memory = SharedMemory.create(Layout(44_100, 128, 16_384, 0, 16 * 16_384, 1024))
    report: Report = collect(memory, Session("x", "a", 24_576, 1.0, {"main": 50.0, "audio": 100.0, "engine": 200.0}))
    machine = [(0.0, MachineVitals(celsius=50.0)), (9.0, MachineVitals(celsius=70.0))]
    yield Findings(SPEC, Config(), CONDITIONS, report, rows(20), machine, (), (), 0, CONDITIONS)
    memory.close()


def test_what_passes_has_no_reasons(found: Findings) -> None:
    good = [Line("onnxruntime", "graph step", True, "5e-07"), Line("onnxruntime", "golden vectors", None, "packed without")]
    assert list(reasons(replace(found, golden=good), MEASURED)) == []
    assert next(course(found))[1:] == (119.0, 50.0) and list(course(found))[-1][1] == 119.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"late": 2, "causes": {"engine slow": 2}}, r"^2 of 800 blocks late .*: engine slow 2\)$"),
        ({"answered": 0}, "^none of 800 blocks was answered$"),
        ({"block_slack": {"worst": 4_000}}, "^slack 4 ms at worst, 10 ms are wanted"),
        ({"steps_allowed": 2}, r"^4 steps do not leave the budget with a margin of 10%: set \[engine\] steps = 2$"),
        ({"steps_allowed": 0}, "not even one step fits$"),
        ({"throttles": 3}, "^throttled: the processor was slowed down 3 times"),
        ({"celsius": 91.0}, "^throttled: 91 degrees, 85 are allowed"),
    ],
)
def test_each_reason_by_name(found: Findings, change: dict[str, Any], says: str) -> None:
    (reason,) = reasons(found, replace(MEASURED, **change))
    assert re.search(says, reason), reason


def test_reasons_beyond_the_figures(found: Findings) -> None:
    wrong = Line("onnxruntime", "graph step", False, "3.0e-01 at most")
    assert list(reasons(replace(found, golden=[wrong]), MEASURED)) == ["graph step: 3.0e-01 at most"]
    assert list(reasons(replace(found, promised_bytes=190 << 20), MEASURED)) == ["240 MB of memory, its manifest promises 190"]
    assert list(reasons(replace(found, promised_bytes=200 << 20), MEASURED)) == [], "a little more is another runtime's way"
    dead = replace(found, report=replace(found.report, engine_restarts=1))
    assert list(reasons(dead, MEASURED)) == ["the engine ended 1 times, and had to forget everything 0 times"]
    moved = replace(found, afterwards=replace(CONDITIONS, governor="powersave"))
    assert list(reasons(moved, MEASURED)) == ["governor changed performance -> powersave during the soak"]


# Conditions


def test_conditions_are_the_same_twice_and_follow_the_configuration(tmp_path: Path) -> None:
    config = Config()
    one = conditions_now(config, "reference")
    assert one == conditions_now(config, "reference") and one.steps == read_spec("reference").steps
    changed = replace(config, audio=replace(config.audio, period_frames=64), engine=replace(config.engine, steps=2))
    assert one.changes(conditions_now(changed, "reference")) == ["period changed 128 -> 64", f"steps changed {one.steps} -> 2"]


def test_power_and_clocks_are_read_as_the_kernel_has_them(tmp_path: Path) -> None:
    for number, most in enumerate(("2400000", "1800000")):
        policy = tmp_path / f"sys/devices/system/cpu/cpufreq/policy{number}"
        policy.mkdir(parents=True)
        for name, value in {"scaling_governor": "performance", "scaling_min_freq": "1500000", "scaling_max_freq": most}.items():
            (policy / name).write_text(value + "\n")
    gpu = tmp_path / "sys/class/devfreq/17000000.gpu"
    gpu.mkdir(parents=True)
    (gpu / "min_freq").write_text("306000000\n")
    (gpu / "max_freq").write_text("918000000\n")
    assert governors(tmp_path) == "performance" and clock_limits(tmp_path) == "1500-1800/1500-2400, GPU 306-918"
    assert governors(tmp_path / "absent") == clock_limits(tmp_path / "absent") == "none"


def test_what_is_to_be_soaked_is_found(tmp_path: Path) -> None:
    """A file, a name, the beginning of a digest, or what plays."""
    config = parse_config(configured(tmp_path).read_text(), "test")
    store = Store(tmp_path / "state/engines")
    assert [engine_of(wish, config, False) for wish in ("", "echo", "current")] == ["reference", "echo", str(REFERENCE)]
    store.begin()
    digest = flash(store, tiny(tmp_path / "one.ghost", "one"))
    store.activate(digest)
    held = str(store.objects.path(digest))
    assert [engine_of(wish, config, False) for wish in ("one", digest[:6], "current")] == [held] * 3
    flash(store, tiny(tmp_path / "two.ghost", "one", 2))
    with pytest.raises(StoreError, match="'one' is 2 engines"):
        engine_of("one", config, False)
    with pytest.raises(StoreError, match="there is no engine 'another' here"):
        engine_of("another", config, False)
    with pytest.raises(BundleError, match=r"absent\.ghost"):
        engine_of(str(tmp_path / "absent.ghost"), config, False)


def test_what_can_not_be_opened_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="can't be read"):
        read(tmp_path / "absent.json")
