"""Performance set-up on a tree that looks like a machine: what it changes, says, and puts back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy.performance import best_power_mode, main, own_cores

CONFIG = "[realtime]\naudio_core = 3\nworker_core = 2\n"
NVPMODEL = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
TOOL = """#!/bin/sh
echo "$0 $*" >>{log}
case "$*" in -q) echo "NV Power Mode: 25W"; cat {mode} ;; "-m "*) echo "$2" >{mode} ;; "--store "*) echo clocks >"$2" ;; esac
"""


def machine(root: Path, governors: str = "performance schedutil") -> Path:
    """Four cores; interrupts of a disk, a network card that can't be moved, and a USB bus."""
    for core in range(4):
        folder = root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("schedutil\n")
        (folder / "scaling_available_governors").write_text(governors + "\n")
    (root / "sys/devices/system/cpu/online").write_text("0-3\n")
    for number, action, cores in ((10, "nvme0q0", "0-3"), (11, "xhci-hcd:usb1", "0-3"), (12, "eth0", "0-1")):
        (root / f"proc/irq/{number}/{action}").mkdir(parents=True)
        (root / f"proc/irq/{number}/smp_affinity_list").write_text(cores + "\n")
    (root / "ghostnote.toml").write_text(CONFIG)
    return root


def settings(root: Path) -> dict[str, str]:
    paths = [path for name in ("scaling_governor", "smp_affinity_list") for path in root.rglob(name)]
    return {str(path.relative_to(root)): path.read_text().strip() for path in paths}


def run(root: Path, action: str) -> None:
    main([action, "--root", str(root), "--state", str(root / "run/before.json"), "--config", str(root / "ghostnote.toml")])


def test_what_is_changed_is_said_and_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = machine(tmp_path)
    before = settings(root)
    run(root, "start")
    said, now = capsys.readouterr().out, settings(root)
    assert "governor: performance on 4 of 4 cores (was schedutil)" in said
    assert "interrupts: 1 moved away from cores 2, 3" in said
    assert now["proc/irq/10/smp_affinity_list"] == "0,1"
    assert now["proc/irq/11/smp_affinity_list"] == "0-3", "the sound card's bus stays where it wakes the audio process"
    assert {now[f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"] for core in range(4)} == {"performance"}
    run(root, "start")  # a second start must not take for normal what the first one set
    run(root, "stop")
    assert settings(root) == before
    assert "put back: 5 of 5 settings" in capsys.readouterr().out
    run(root, "stop")
    assert settings(root) == before and capsys.readouterr().out == ""


def test_a_machine_with_nothing_to_choose_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = machine(tmp_path, governors="powersave")
    (root / "ghostnote.toml").write_text("")
    before = settings(root)
    run(root, "start")
    assert settings(root) == before
    said = capsys.readouterr().out
    assert "governor: none to choose here" in said and "left where they are, no core is the pedal's own" in said


def test_a_jetson_gets_its_power_mode_and_clocks_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tools that answer as nvpmodel and jetson_clocks are documented to. Never run on a Jetson."""
    root, tools = machine(tmp_path / "root"), tmp_path / "bin"
    tools.mkdir()
    log, mode = tmp_path / "log", tmp_path / "mode"
    mode.write_text("1\n")
    (root / "etc").mkdir()
    (root / "etc/nvpmodel.conf").write_text(NVPMODEL)
    for name in ("nvpmodel", "jetson_clocks"):
        (tools / name).write_text(TOOL.format(log=log, mode=mode))
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    run(root, "start")
    assert mode.read_text() == "2\n"
    run(root, "stop")
    assert mode.read_text() == "1\n"
    calls = [line.split("/")[-1] if "--" not in line else line for line in log.read_text().splitlines()]
    assert calls[0] == "nvpmodel -q" and "nvpmodel -m 2" in calls and calls[-1] == "nvpmodel -m 1"
    assert any("--store" in call for call in calls) and any("--restore" in call for call in calls)


def test_facts(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text(NVPMODEL)
    assert best_power_mode(tmp_path / "conf") == "2" and best_power_mode(tmp_path / "absent") is None
    (tmp_path / "x.toml").write_text(CONFIG)
    assert own_cores(tmp_path / "x.toml") == [2, 3] and own_cores(tmp_path / "absent") == [] and own_cores(None) == []
