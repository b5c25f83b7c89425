"""A command that must stand where the service stands: root becomes the service's user, with its limits, its cores and its folders.

What a certificate says is worth something only under the conditions that the pedal will play under, and what is written must be the
service's to read. Whoever is not root, or has no service installed, stays as he is.

Runs in: the main process of such a command, first of all.
"""

from __future__ import annotations

import os
import pwd
import re
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

LIMITS = {  # as in deploy/systemd/ghostnote.service
    resource.RLIMIT_RTPRIO: 95,
    resource.RLIMIT_MEMLOCK: resource.RLIM_INFINITY,
    resource.RLIMIT_NICE: 40,  # down to -20
}
CONFIG = Path("/etc/ghostnote/ghostnote.toml")


@dataclass(frozen=True)
class Service:
    """As deploy/install has set it up."""

    user: str = "ghostnote"
    state: Path = Path("/var/lib/ghostnote")
    cache: Path = Path("/var/cache/ghostnote")
    runtime: Path = Path("/run/ghostnote")
    unit: str = "ghostnote.service"

    def cores(self) -> set[int]:
        """The unit's CPUAffinity; all that are there where it has none, or systemd does not answer."""
        try:
            done = subprocess.run(["systemctl", "show", "--property=CPUAffinity", "--value", self.unit], capture_output=True, text=True)
        except OSError:
            return os.sched_getaffinity(0)
        return parsed_cores(done.stdout) or os.sched_getaffinity(0)


def parsed_cores(text: str) -> set[int]:
    """Of `0-2 5` or `0-2,5`; nothing of anything else."""
    cores: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        cores |= set(range(int(first), int(last or first) + 1))
    return cores


def become_service(service: Service | None = None) -> bool:
    """Whether it was done; it can't be undone."""
    service = service or Service()
    if os.geteuid() != 0 or "STATE_DIRECTORY" in os.environ:
        return False
    try:
        user = pwd.getpwnam(service.user)
    except KeyError:
        return False
    for limit, value in LIMITS.items():
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):
            pass  # a container's root: what is granted in the end is a condition like any other
    try:
        os.sched_setaffinity(0, service.cores())
    except OSError:
        pass  # cores that are gone: `conditions_now` will say so
    for folder in (service.state, service.cache):
        if not folder.exists():  # systemd makes them when the service first starts
            folder.mkdir(mode=0o755)
            os.chown(folder, user.pw_uid, user.pw_gid)
    folders = {"STATE_DIRECTORY": service.state, "CACHE_DIRECTORY": service.cache, "RUNTIME_DIRECTORY": service.runtime}
    os.environ.update({name: str(folder) for name, folder in {**folders, "HOME": service.state}.items()})
    os.initgroups(service.user, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.umask(0o027)
    return True
