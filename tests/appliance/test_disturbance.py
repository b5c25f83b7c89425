"""Load that leaves nothing behind, however whoever made it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.disturbance import COPIED_BYTES, LOADS, WRITTEN_BYTES, disturbed

REPO = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from appliance.disturbance import LOADS, disturbed
with disturbed(LOADS["stage"], Path(sys.argv[1])) as pids:
    print(*pids, flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: object, seconds: float = 60.0) -> bool:
    assert callable(condition)
    give_up_at = time.monotonic() + seconds
    while not condition() and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return bool(condition())


def ticks(pid: int) -> int:
    """Processor time, in hundredths of a second."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def work_on(pids: list[int]) -> bool:
    """Whether each goes on to use a core, now that it has started."""
    began = {pid: ticks(pid) for pid in pids}
    return until(lambda: all(ticks(pid) > began[pid] + 2 for pid in pids))


def written_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/io").read_text().split("wchar:")[1].split()[0])


def test_it_works_while_it_lasts_and_is_gone_afterwards(tmp_path: Path) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with disturbed(LOADS["stage"], tmp_path) as pids:
        assert len(pids) == 2 + LOADS["stage"].spinners
        copier, writer, *spinners = pids
        assert until(lambda: all(os.getpriority(os.PRIO_PROCESS, pid) in (10, max(10, own)) for pid in spinners))
        assert until(lambda: resident_bytes(copier) > 2 * COPIED_BYTES) and os.getpriority(os.PRIO_PROCESS, copier) in (0, own)
        assert work_on([copier, *spinners]), "copiers and spinners use their cores"
        assert until(lambda: written_bytes(writer) > WRITTEN_BYTES)
        assert os.listdir(tmp_path) == [], "what is written has no name"
    assert not any(alive(pid) for pid in pids) and os.listdir(tmp_path) == []


def test_an_error_in_between_ends_it(tmp_path: Path) -> None:
    pids: list[int] = []
    with pytest.raises(KeyboardInterrupt), disturbed(LOADS["heavy"], tmp_path) as started:
        pids += started
        raise KeyboardInterrupt
    assert pids and not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_its_parent_ends(tmp_path: Path, how: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) >= 3
    if how is not signal.SIGKILL:
        assert until(lambda: all(ticks(pid) > 2 for pid in pids[2:]))  # SIGKILL comes as early as it can: before they are tied to it
    parent.send_signal(how)
    parent.wait(20)
    assert until(lambda: not any(alive(pid) for pid in pids)), "the kernel ends them"
    assert os.listdir(tmp_path) == []
