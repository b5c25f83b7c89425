"""The installer, in a tree of its own; and the units, as systemd's own tools see them. The container's tests do it for real."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
INSTALL, UNITS = REPO / "deploy" / "install", REPO / "deploy" / "systemd"
MOST_EXPOSED = 40  # tenths: systemd-analyze calls 4.0 and below "OK"

needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed (apt install systemd)")


def install(tree: Path, *arguments: str) -> str:
    """What it said. Raises CalledProcessError with its words in `stderr`."""
    environment = {**os.environ, "DESTDIR": str(tree)}
    return subprocess.run([INSTALL, *arguments], env=environment, check=True, capture_output=True, text=True).stdout


def contents(tree: Path) -> dict[str, str]:
    files = [path for path in tree.rglob("*") if path.is_symlink() or path.is_file()]
    return {str(path.relative_to(tree)): os.readlink(path) if path.is_symlink() else path.read_text() for path in files}


def test_files_are_where_the_system_looks_for_them(tmp_path: Path) -> None:
    install(tmp_path, "--files-only")
    assert set(contents(tmp_path)) == {
        "etc/systemd/system/ghostnote.service",
        "etc/systemd/system/ghostnote-performance.service",
        "etc/systemd/system/ghostnote-web.service",
        "etc/systemd/system/ghostnote-stick@.service",
        "etc/udev/rules.d/70-ghostnote.rules",
        "etc/sysusers.d/ghostnote.conf",
        "etc/ghostnote/ghostnote.toml",
        "etc/ghostnote/ghostnote.toml.example",
        "usr/local/bin/ghostnote",
    }
    assert (tmp_path / "etc/ghostnote/ghostnote.toml").stat().st_mode & 0o777 == 0o644, "the pedal's user can read it"


def test_again_changes_nothing_and_the_configuration_is_never_written_again(tmp_path: Path) -> None:
    install(tmp_path, "--files-only")
    before = contents(tmp_path)
    assert install(tmp_path, "--files-only") == "" and contents(tmp_path) == before
    mine = tmp_path / "etc/ghostnote/ghostnote.toml"
    mine.write_text("[controls]\nmix = 0.9\n")
    (tmp_path / "etc/systemd/system/ghostnote.service").write_text("an old unit")
    assert "kept your" in install(tmp_path, "--files-only")
    after = contents(tmp_path)
    assert after.pop("etc/ghostnote/ghostnote.toml") == "[controls]\nmix = 0.9\n"
    assert after == {name: text for name, text in before.items() if name != "etc/ghostnote/ghostnote.toml"}


def test_cores_become_a_drop_in_that_an_update_leaves_alone(tmp_path: Path) -> None:
    install(tmp_path, "--files-only", "--cores", "2,3")
    install(tmp_path, "--files-only")
    assert contents(tmp_path)["etc/systemd/system/ghostnote.service.d/cores.conf"] == "[Service]\nCPUAffinity=2,3\n"


def test_uninstalling_keeps_what_is_the_players_unless_told_otherwise(tmp_path: Path) -> None:
    install(tmp_path, "--files-only", "--cores", "1")
    presets = tmp_path / "var/lib/ghostnote/presets"
    presets.mkdir(parents=True)
    (presets / "01-1.toml").write_text("")
    assert "kept" in install(tmp_path, "uninstall")
    left = {"etc/ghostnote/ghostnote.toml", "etc/ghostnote/ghostnote.toml.example", "var/lib/ghostnote/presets/01-1.toml"}
    assert set(contents(tmp_path)) == left
    assert install(tmp_path, "uninstall") and set(contents(tmp_path)) == left, "twice is once"
    install(tmp_path, "uninstall", "--purge")
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--corse", "1"], "unknown argument --corse"),
        (["--cores", "all"], "--cores all makes no sense"),
        (["back"], "there is no version before this one"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        install(tmp_path, *arguments)
    assert words in failed.value.stderr and failed.value.stderr.count("\n") == 1
    assert not contents(tmp_path)


@needs_systemd
def test_systemd_finds_no_fault_with_the_units(tmp_path: Path) -> None:
    """It says so on stderr only, and returns 0 whatever it finds."""
    for unit in UNITS.glob("*.service"):
        (tmp_path / unit.name).write_text(re.sub(r"/opt/ghostnote/current/bin/\w+", "/bin/true", unit.read_text()))
    done = subprocess.run(["systemd-analyze", "verify", *tmp_path.glob("*.service")], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "ghostnote" in line]
    assert not ours, ours


@needs_systemd
@pytest.mark.parametrize(("unit", "most"), [("ghostnote", MOST_EXPOSED), ("ghostnote-web", 20)])
def test_the_services_are_hardened(unit: str, most: int) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", UNITS / f"{unit}.service"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_the_unit_promises_what_the_appliance_relies_on() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / "ghostnote.service")
    service = unit["Service"]
    promised = ("Type", "NotifyAccess", "Restart", "User", "ProtectSystem", "PrivateNetwork", "StateDirectory", "LimitMEMLOCK")
    assert [service[key] for key in promised] == ["notify", "main", "always", "ghostnote", "strict", "yes", "ghostnote", "infinity"]
    assert "sound.target" in unit["Unit"]["After"] and "ghostnote\\x2dboard.device" in unit["Unit"]["After"]
    assert int(service["LimitRTPRIO"]) >= 90


def test_the_web_page_is_there_and_asleep_until_somebody_wants_it(tmp_path: Path) -> None:
    install(tmp_path, "--files-only")
    assert not list(tmp_path.rglob("*.wants")), "nothing is enabled in a tree"
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / "ghostnote-web.service")
    service = unit["Service"]
    assert (service["User"], service["IPAddressDeny"], service["ProtectSystem"]) == ("ghostnote-web", "any", "strict")
    assert int(service["Nice"]) >= 10 and int(service["CPUWeight"]) <= 10 and service["MemoryMax"]
