"""Root takes the service's place: its user, its limits, its folders. Whoever is not root, or has no service, stays as he is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from appliance.as_service import Service, become_service, parsed_cores

REPO = Path(__file__).parents[2]
ANYBODY = "nobody"
PROGRAM = """
import json, os, resource, sys
from pathlib import Path
from appliance.as_service import Service, become_service
from appliance.conditions import granted_here
from appliance.config import Config
from appliance.device_key import DeviceKey
folder = Path(sys.argv[1])
became = become_service(Service("nobody", folder / "state", folder / "cache", folder / "run", "absent.service"))
DeviceKey.open(Path(os.environ["STATE_DIRECTORY"]))
limits = [resource.getrlimit(one)[0] for one in (resource.RLIMIT_RTPRIO, resource.RLIMIT_MEMLOCK)]
print(json.dumps([became, os.geteuid(), limits, granted_here(Config()).__dict__, become_service()]))
"""


def another_user_can_run_this() -> bool:
    try:
        probe = "import encodings.idna, appliance.as_service, numpy"
        return (
            subprocess.run(
                [sys.executable, "-c", probe], cwd="/", env={"PYTHONPATH": str(REPO)}, user=ANYBODY, capture_output=True
            ).returncode
            == 0
        )
    except OSError:
        return False


def test_root_becomes_the_service() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    if not another_user_can_run_this():
        pytest.skip("no other user can read this Python or this checkout")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name != "STATE_DIRECTORY"}
        command = [sys.executable, "-c", PROGRAM, name]
        done = subprocess.run(command, cwd=REPO, env={**environment, "PYTHONPATH": str(REPO)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        became, user, limits, granted, again = json.loads(done.stdout)
        assert became and user != 0 and not again
        if limits == [95, -1]:  # a container's root may not raise them
            assert granted == {"realtime": "SCHED_FIFO 70, locked memory", "niceness": -10}
        key = folder / "state" / "device.key"
        assert key.stat().st_uid == user and key.stat().st_mode & 0o777 == 0o600


def test_without_a_service_nothing_changes() -> None:
    before = dict(os.environ)
    assert not become_service(Service(user="nobody-of-this-name"))
    assert dict(os.environ) == before


@pytest.mark.parametrize(("text", "cores"), [("2-3", {2, 3}), ("0 2-4\n", {0, 2, 3, 4}), ("1,3", {1, 3}), ("", set()), ("n/a", set())])
def test_cores_as_systemd_writes_them(text: str, cores: set[int]) -> None:
    assert parsed_cores(text) == cores
