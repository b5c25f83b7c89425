"""`ghostnote engine flash|list|activate|rollback|remove` without a pedal that plays. (With one: test_caretaker.py.)"""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.cli import BAD_INPUT, main
from appliance.store import CURRENT, Store
from tests.trust.keys import KEY, STRANGER
from tests.trust.toy import write_toy

REPO = Path(__file__).parents[2]


class Device:
    """A folder that is all of a pedal's disk, and a shell."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.config, self.store, self._capsys = folder, folder / "pedal.toml", Store(folder / "state" / "engines"), capsys
        (folder / "keys").mkdir()
        (folder / "keys" / "friend.pub").write_text(KEY.public.text())
        self.config.write_text(f'[engine]\nbundle = "current"\nkeys = "{folder / "keys"}"\n[storage]\nfolder = "{folder / "state"}"\n')

    def run(self, action: str, *arguments: str) -> str:
        """What it says; an exit code of 2 is put before it."""
        code = main(["engine", action, "--config", str(self.config), *arguments])
        said = self._capsys.readouterr()
        return (f"{code}: " if code else "") + said.out + said.err


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Device:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return Device(tmp_path, capsys)


def test_from_a_file_to_the_engine_that_plays_next(device: Device, tmp_path: Path) -> None:
    bundle = write_toy(tmp_path / "toy.ghost")
    short = bundle.digest[:12]
    said = device.run("flash", str(bundle.path))
    assert f"toy 3 ({short}) is here" in said and f"no certificate for engine {short}" in said
    assert f"next: ghostnote certify {short}    then: ghostnote engine activate {short}" in said
    assert "has been here already" in device.run("flash", str(bundle.path))
    assert device.run("activate", "toy").startswith(f"{BAD_INPUT}: ghostnote: no certificate")
    assert "plays from the next start on, on trial" in device.run("activate", short, "--force")
    assert device.store.link(CURRENT) == bundle.digest
    said = device.run("list")
    line = next(line for line in said.splitlines() if short in line)
    assert "current, trial" in line and KEY.public.name in line, "an engine in a line, also in a pipe"
    assert "the one that plays was forced: no certificate" in said
    assert "in use" in device.run("remove", "toy")
    assert "the engine that came with Ghostnote plays from the next start on" in device.run("rollback")
    assert "was taken back: the player wanted it" in device.run("list")
    assert device.run("rollback").startswith(f"{BAD_INPUT}: ghostnote: the engine that came with Ghostnote plays")
    assert f"toy 3 ({short}) is removed" in device.run("remove", "toy")
    assert "every engine here is in use" in device.run("remove", "--unused")


def test_over_ssh_a_bundle_comes_in_by_stdin(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_toy(tmp_path / "toy.ghost")
    command = [sys.executable, "-m", "appliance", "engine", "flash", "--config", str(device.config), "-"]
    with bundle.path.open("rb") as file:
        done = subprocess.run(["cat"], stdin=file, capture_output=True, check=True)
    said = subprocess.run(command, input=done.stdout, capture_output=True, cwd=REPO)
    assert b"is here" in said.stdout, said.stderr
    assert device.store.objects.digests() == [bundle.digest]


@pytest.mark.parametrize("key", [None, STRANGER])
def test_what_nobody_trusted_has_signed_needs_somebody_who_agrees(device: Device, tmp_path: Path, key: object) -> None:
    path = write_toy(tmp_path / "toy.ghost", key).path  # type: ignore[arg-type]
    assert device.run("flash", str(path)).startswith(f"{BAD_INPUT}: ghostnote: {path}: ")
    command = [sys.executable, "-m", "appliance", "engine", "flash", "--config", str(device.config), "--allow-unsigned", str(path)]
    alone = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=REPO, start_new_session=True)
    assert alone.returncode == BAD_INPUT and "Nobody is here to agree" in alone.stderr
    assert device.store.objects.digests() == []
    for answer, comes_in in (("no", False), ("yes", True)):
        said = at_a_terminal(command, answer)
        assert "Type yes to agree" in said and bool(device.store.objects.digests()) is comes_in, said


def at_a_terminal(command: list[str], answer: str) -> str:
    """What is said there, after `answer` has been typed."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(REPO)
        os.execv(command[0], command)
    said = b""
    try:
        while piece := os.read(terminal, 4096):
            said += piece
            if piece.endswith(b"agree: "):
                os.write(terminal, f"{answer}\n".encode())
    except OSError:
        pass  # it has ended
    os.waitpid(child, 0)
    os.close(terminal)
    return said.decode()


def test_an_operators_mistakes_end_in_one_line(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noise.ghost").write_bytes(os.urandom(1_000))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for action, arguments, why in (
        ("flash", [str(tmp_path / "none.ghost")], "no bundle can be read there (No such file or directory)"),
        ("flash", [str(tmp_path / "noise.ghost")], "noise.ghost: is not a bundle"),
        ("activate", ["nothing"], "there is no engine 'nothing' here"),
        ("remove", [], "say which engine, or --unused"),
        ("remove", ["nothing"], "there is no engine 'nothing'"),
    ):
        said = device.run(action, *arguments)
        assert said.startswith(f"{BAD_INPUT}: ghostnote: ") and why in said and said.count("\n") == 1, said


def test_who_may_not_write_the_store_goes_through_the_inbox(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance import engine_commands
    from appliance.inbox import inbox_of, make_inbox

    device.store.begin()
    bundle = write_toy(tmp_path / "toy.ghost")
    monkeypatch.setattr(engine_commands.os, "access", lambda path, mode: False)
    monkeypatch.setattr(engine_commands, "INBOX_SECONDS", 0.3)
    assert "can't be used (No such file or directory): use sudo, or join the group" in device.run("flash", str(bundle.path))
    make_inbox(device.store.folder)
    assert "no pedal takes it in: start it, or use sudo" in device.run("flash", str(bundle.path))
    assert (inbox_of(device.store.folder) / "toy.ghost").read_bytes() == bundle.path.read_bytes()
    assert "is taken in by its owner (sudo) only" in device.run("flash", str(bundle.path), "--allow-unsigned")
