"""What is asked of the operating system, and that the account of what it granted is true: compared with what the kernel says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.realtime import RealtimeReport, Step

REPO = Path(__file__).parents[2]

# Enters real time, then tells what the kernel knows of the process and of a child of it.
PROGRAM = """
import gc, json, os, resource, sys
from appliance.realtime import enter_realtime
wish = json.loads(sys.argv[1])
if wish.get("unprivileged"):
    for limit in (resource.RLIMIT_RTPRIO, resource.RLIMIT_MEMLOCK):
        resource.setrlimit(limit, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
core = min(os.sched_getaffinity(0)) if wish["core"] == "any" else wish["core"]
report = enter_realtime(wish["priority"], core, wish.get("lock", True))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
child = os.fork()
if child == 0:
    os._exit(os.sched_getscheduler(0))
child_policy = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
print(json.dumps({
    "steps": {step.what.split()[0]: step.granted for step in report.steps}, "text": str(report), "complete": report.complete,
    "fifo": policy == os.SCHED_FIFO, "child_fifo": child_policy == os.SCHED_FIFO, "priority": os.sched_getparam(0).sched_priority,
    "cores": sorted(os.sched_getaffinity(0)), "core": core, "gc": gc.isenabled(), "locked_kb": int(status["VmLck"].split()[0]),
}))
"""


def enter(**wish: object) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(wish)], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts: dict[str, object] = json.loads(done.stdout)
    return facts


def test_the_report_is_what_the_kernel_says() -> None:
    facts = enter(priority=20, core="any")
    steps = facts["steps"]
    assert isinstance(steps, dict) and set(steps) == {"garbage", "exact", "locked", "core", "SCHED_FIFO"}
    assert facts["gc"] is False and steps["garbage"]
    assert steps["core"] and facts["cores"] == [facts["core"]]
    assert steps["SCHED_FIFO"] is facts["fifo"] and facts["priority"] == (20 if facts["fifo"] else 0)
    assert steps["locked"] is (facts["locked_kb"] != 0)
    assert not facts["child_fifo"], "children are not real-time by accident"
    assert facts["complete"] is all(steps.values())


def test_what_is_not_permitted_is_said_with_its_remedy_and_nothing_is_raised() -> None:
    facts = enter(priority=20, core="any", unprivileged=True)
    steps, text = facts["steps"], facts["text"]
    assert isinstance(steps, dict) and isinstance(text, str)
    assert not steps["locked"] and not steps["SCHED_FIFO"] and not facts["complete"]
    assert not facts["fifo"] and facts["locked_kb"] == 0
    assert "LimitRTPRIO=20" in text and "LimitMEMLOCK=infinity" in text and "\n" not in text
    assert text.startswith("real time: garbage collector off, ")


@pytest.mark.parametrize("core", [1023, 100_000, -5])
def test_a_core_that_does_not_exist(core: int) -> None:
    facts = enter(priority=0, core=core, lock=False)
    steps, text = facts["steps"], facts["text"]
    assert isinstance(steps, dict) and isinstance(text, str)
    assert steps["core"] is False and f"no core {core} " in text and "set another" in text
    assert len(facts["cores"]) == len(os.sched_getaffinity(0))  # type: ignore[arg-type]


def test_what_is_not_asked_for_is_not_reported() -> None:
    steps = enter(priority=0, core=None, lock=False)["steps"]
    assert isinstance(steps, dict) and set(steps) == {"garbage", "exact"}


def test_a_report_in_words() -> None:
    report = RealtimeReport((Step("core 1", True), Step("SCHED_FIFO 70", False, "not permitted: set LimitRTPRIO=70")))
    assert str(report) == "real time: core 1; no SCHED_FIFO 70 (not permitted: set LimitRTPRIO=70)"
    assert not report.complete and [step.what for step in report.refused] == ["SCHED_FIFO 70"]
