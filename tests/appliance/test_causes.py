"""Labels of missed deadlines, from figures as Linux gives them; and where those figures come from."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.causes import Cause, Evidence, Use, block_verdict, period_verdict, use_between, usual_use
from appliance.vitals import MachineVitals, ProcessVitals, Sample, Vitals

MS = 1_000_000
USUAL = Use(372.0, cpu_ms=40.0, wait_ms=1.0, system_ms=2.0, minor_faults=50)


def evidence(use: Use, **facts: object) -> Evidence:
    return Evidence(use, USUAL, 42.0, **{"states": "R", "hot": False, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "cause", "words"),
    [
        (evidence(Use(160.0, cpu_ms=158.0)), Cause.ENGINE, "160 ms were not enough, 42 ms are usual"),
        (evidence(Use(160.0, cpu_ms=9.0, wait_ms=0.5), states="SS"), Cause.ENGINE, "not enough"),  # a graphics processor is slow
        (evidence(Use(160.0), alive=False), Cause.ENGINE, "had ended"),
        (evidence(Use(160.0, cpu_ms=20.0, wait_ms=138.0)), Cause.STARVED, "138 of 160 ms ready to run"),
        (evidence(Use(160.0, cpu_ms=20.0, wait_ms=900.0)), Cause.STARVED, "160 of 160 ms ready to run"),
        (evidence(Use(160.0, cpu_ms=4.0)), Cause.STARVED, "held up (seen as R)"),  # a core was never given
        (evidence(Use(160.0, cpu_ms=4.0), states="ST"), Cause.STARVED, "seen as ST"),
        (evidence(Use(160.0, cpu_ms=4.0), states="D"), Cause.STARVED, "held up"),
        (evidence(Use(160.0, cpu_ms=90.0, steal_ms=80.0)), Cause.STARVED, "ready to run"),
        (evidence(Use(160.0, cpu_ms=158.0, system_ms=110.0, minor_faults=60_000)), Cause.STARVED, "60000 page faults"),
        (evidence(Use(160.0, cpu_ms=158.0), clock_share=0.4, celsius=96.0, hot=True), Cause.THERMAL, "40% of what it was at 96 degrees"),
        (evidence(Use(160.0, cpu_ms=158.0), clock_share=0.4), Cause.THERMAL, "a power limit?"),
        (evidence(Use(160.0, cpu_ms=158.0), clock_share=1.0, celsius=99.0, hot=True), Cause.ENGINE, "not enough"),
        (evidence(Use(160.0), states="S", taken_up=False), Cause.UNKNOWN, "idle"),
        (evidence(Use(30.0, cpu_ms=29.0)), Cause.UNKNOWN, "nothing took much"),
    ],
)
def test_a_block(found: Evidence, cause: Cause, words: str) -> None:
    verdict = block_verdict(found)
    assert verdict.cause is cause and words in verdict.why, verdict


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (evidence(Use(372.0, cpu_ms=5.0, wait_ms=1.0), states=""), Cause.CARD),
        (evidence(Use(372.0, cpu_ms=5.0, wait_ms=9.0), states=""), Cause.STARVED),
        (evidence(Use(372.0, cpu_ms=5.0, wait_ms=9.0), states="SSS"), Cause.CARD),  # busy elsewhere, but it was the card that was slow
        (Evidence(Use(372.0, cpu_ms=5.0), USUAL, 322.0, states="TTTT"), Cause.STARVED),
    ],
)
def test_a_period(found: Evidence, cause: Cause) -> None:
    verdict = period_verdict(found, queue_ms=5.8, why="1 xruns of capture")
    assert verdict.cause is cause and verdict.why.startswith("1 xruns of capture"), verdict


def test_use_is_the_difference_of_two_samples() -> None:
    def sample(at_ms: int, cpu_ms: int, steal_ms: int) -> Sample:
        return Sample(at_ms * MS, MachineVitals(steal_ns=steal_ms * MS), {"engine": ProcessVitals("R", cpu_ms * MS, 2 * MS, MS, 7, 0)})

    assert use_between(sample(100, 10, 5), sample(472, 50, 6), "engine") == Use(372.0, 40.0, 0.0, 0.0, 0, 0, 1.0)
    assert use_between(sample(100, 10, 5), sample(472, 50, 6), "audio") == Use(372.0)
    assert use_between(sample(100, 60, 5), sample(472, 50, 6), "engine") == Use(372.0), "it has been started again in between"
    assert usual_use([Use(1.0, 10.0), Use(3.0, 30.0), Use(2.0, 90.0)]).cpu_ms == 30.0 and usual_use([]) == Use(0.0)


WORK = """
import contextlib, mmap, time
pages = mmap.mmap(-1, 8 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
with contextlib.suppress(OSError):  # a kernel without huge pages
    pages.madvise(mmap.MADV_NOHUGEPAGE)
print(flush=True)
input()
end = time.process_time() + 0.05
for at in range(0, len(pages), mmap.PAGESIZE):
    pages[at] = 1
while time.process_time() < end:
    pass
print(flush=True)
input()
"""


def test_a_real_process() -> None:
    """One of its own: here are threads that end meanwhile, and memory that has been touched before."""
    with subprocess.Popen([sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        before = Vitals().sample({"it": process.pid, "gone": 1 << 30})
        print(file=process.stdin, flush=True)
        process.stdout.readline()
        use = use_between(before, Vitals().sample({"it": process.pid}), "it")
        print(file=process.stdin, flush=True)
    assert "gone" not in before.processes and before.processes["it"].state in "RS"
    assert 45 <= use.cpu_ms <= use.window_ms + 10, "it has one thread"
    assert use.minor_faults * mmap.PAGESIZE >= 7 << 20


def test_a_machine_is_read_from_its_folders(tmp_path: Path) -> None:
    files = {
        "devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1500000",
        "devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "2035000",
        "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
        "class/devfreq/17000000.gpu/cur_freq": "918000000",
        "class/devfreq/13e00000.host1x/cur_freq": "204000000",
        "class/thermal/thermal_zone0/temp": "61500",
        "class/thermal/thermal_zone1/temp": "-256000",  # not connected
        "class/hwmon/hwmon0/temp1_input": "48000",
        "class/hwmon/hwmon0/temp2_input": "broken",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert Vitals(proc=tmp_path, sys=tmp_path).machine() == MachineVitals(2035.0, 918.0, 61.5, 3, 0)
    assert Vitals(proc=tmp_path / "none", sys=tmp_path / "none").machine() == MachineVitals()
