"""Sizes that keep the code readable, and words that do not belong in it."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("appliance", "engines", "hw", "deploy") for path in (REPO / package).rglob("*.py"))
FILE_LINES, FUNCTION_LINES, P90_LINES, MEDIAN_LINES = 400, 60, 35, 10
SLASH = "/"  # patterns are put together here, so that this file does not match itself
MACHINE_PATH = re.compile(rf"(?<![\w.~-]){SLASH}(work|root|home{SLASH}\w+|Users{SLASH}\w+|opt{SLASH}pypi\w*){SLASH}")
LEFTOVER = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "Magic" + "Mock", "unittest[.]" + "mock")))


def functions(path: Path) -> list[tuple[str, int]]:
    """Name and length in lines of every function of a file."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [(n.name, n.end_lineno - n.lineno + 1) for n in nodes if isinstance(n, ast.FunctionDef) and n.end_lineno]


def text_files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPO, capture_output=True, check=True).stdout.decode().split("\0")
    paths = [REPO / name for name in names if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES
    long = [(name, lines) for name, lines in functions(path) if lines > FUNCTION_LINES]
    assert not long, f"functions over {FUNCTION_LINES} lines: {long}"


def test_most_functions_are_short() -> None:
    lengths = sorted(lines for path in SOURCES for _, lines in functions(path))
    assert statistics.median(lengths) <= MEDIAN_LINES
    assert lengths[int(0.9 * len(lengths))] <= P90_LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPO)))
def test_modules_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a module starts with a docstring"


def matches(pattern: re.Pattern[str]) -> list[str]:
    texts = {path: path.read_text(errors="replace") for path in text_files()}
    return [f"{path.relative_to(REPO)}: {m.group()}" for path, text in texts.items() for m in pattern.finditer(text)]


def test_no_path_of_a_machine() -> None:
    assert not matches(MACHINE_PATH)


def test_nothing_is_left_for_later() -> None:
    assert not matches(LEFTOVER)
