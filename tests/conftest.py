"""What every test may count on: repeatable property tests, threads that do not spin while they wait, and no state of another run."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

for name, value in {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "MPLBACKEND": "Agg"}.items():
    os.environ.setdefault(name, value)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background of a script, and so would be all that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("ghostnote", derandomize=True, deadline=None, database=None)
settings.load_profile("ghostnote")

_numbers = itertools.count()
MEMORY, ENOUGH_BYTES = Path("/dev/shm"), 32 << 20
COMPUTING = {"engines", "lmdm", "sao", "style", "tensorrt", "train", "trust"}  # folders of tests that no clock rules
STEPS_BACK = 10  # of niceness


@pytest.hookimpl(tryfirst=True)  # before xdist looks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two groups for two processes (`make test`): one computes, the other drives real processes against real clocks, one after another."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(pytest.mark.xdist_group("computing" if folder in COMPUTING else "clocks"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What computes takes only the time that the clocks leave it."""
    beside_others = os.environ.get("PYTEST_XDIST_WORKER") and item.get_closest_marker("xdist_group").args == ("computing",)
    if beside_others and os.nice(0) < STEPS_BACK:
        os.nice(STEPS_BACK)


@pytest.fixture(autouse=True)
def _state_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pedal that a test runs keeps its presets and last state where no other test, and no player, finds them."""
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / f"state-{next(_numbers)}"))


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: for tests that make and remove thousands of small files, and bring a disk of their own."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ENOUGH_BYTES:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="ghostnote-", dir=MEMORY) as folder:
        yield Path(folder)
