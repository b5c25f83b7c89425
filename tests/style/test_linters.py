"""ruff, mypy and codespell over the whole repository. Their settings are in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
PACKAGES = ("appliance", "engines", "hw", "deploy")


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def tracked() -> list[str]:
    """Files that git knows or would add: build outputs and environments are not the repository's."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPO, capture_output=True, check=True).stdout.decode().split("\0")
    return [name for name in names if name and (REPO / name).is_file()]


def test_ruff() -> None:
    run("ruff", "check", "--no-cache", ".")


def test_mypy() -> None:
    run("mypy", *PACKAGES)


def test_codespell() -> None:
    run("codespell_lib", *tracked())
