"""The script board: what it reads, when it gives it, and what it says of a line that makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.controls import Control
from hw.board import CONTROL_NAMES, SWITCHES, BoardError, BoardEvent, ControlEvent, open_board
from hw.script import ScriptBoard, parse_script

SCRIPT = """
# a set
0        mix 0.8            # louder than usual
0:02.5   prompt warm choir
1:02     prompt 3
12.0     bypass on
13       Bypass OFF
14       tap
1:00:00.5 subdivision 1/8.
15       delay_ms 744
"""


def test_reads_every_kind_of_line() -> None:
    assert parse_script(SCRIPT, "set.txt") == [
        ControlEvent(0.0, "mix", 0.8),
        ControlEvent(2.5, "prompt", "warm choir"),
        ControlEvent(62.0, "prompt", 3.0),
        ControlEvent(12.0, "bypass", 1.0),
        ControlEvent(13.0, "bypass", 0.0),
        ControlEvent(14.0, "tap", 1.0),
        ControlEvent(3600.5, "subdivision", "1/8."),
        ControlEvent(15.0, "delay_ms", 744.0),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("12", "stands alone"),
        ("twelve mix 0.5", "time 'twelve'"),
        ("-1 mix 0.5", "time '-1'"),
        ("nan mix 0.5", "time 'nan'"),
        ("inf mix 0.5", "time 'inf'"),
        ("1:75 mix 0.5", "time '1:75'"),
        ("1:2:3:4 mix 0.5", "time '1:2:3:4'"),
        ("1.5:00 mix 0.5", "time '1.5:00'"),
        (":5 mix 0.5", "time ':5'"),
        ("1 mixx 0.5", "did you mean 'mix'"),
        ("1 wobble 0.5", "use one of"),
        ("1 mix", "has no value"),
        ("1 mix loud", "number from 0 on, not 'loud'"),
        ("1 mix nan", "number from 0 on, not 'nan'"),
        ("1 mix -0.5", "number from 0 on, not '-0.5'"),
        ("1 mix 0.5 0.6", "leave out '0.6'"),
        ("1 bypass maybe", "use on or off"),
        ("1 tap twice", "leave out 'twice'"),
        ("1 prompt", "has no value"),
        ("1 prompt # none", "has no value"),
    ],
)
def test_a_corrupt_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    path.write_text(f"# first\n0 mix 1\n{line}\n")
    with pytest.raises(BoardError) as refusal:
        open_board(f"script:{path}")
    message = str(refusal.value)
    assert f"{path}, line 3: " in message and words in message and "\n" not in message


def test_what_is_no_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="can't be read"):
        open_board(f"script:{tmp_path}/none.txt")
    with pytest.raises(BoardError, match="can't be read"):
        open_board(f"script:{tmp_path}")
    (tmp_path / "noise.txt").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BoardError, match="not a text file"):
        open_board(f"script:{tmp_path}/noise.txt")
    with pytest.raises(BoardError, match="midi:, keys, script:PATH or none"):
        open_board("osc:0")


def test_a_hash_within_a_word_is_no_comment() -> None:
    assert parse_script("1 prompt F# minor organ #1", "x")[0].value == "F# minor organ"


def test_no_board_has_no_events() -> None:
    board = open_board("none")
    assert board.poll(1e9) == []
    board.close()


@given(st.lists(st.floats(0, 100), max_size=20), st.lists(st.floats(0, 120), max_size=20))
def test_each_event_comes_once_in_time_and_in_order(times: list[float], polls: list[float]) -> None:
    board = ScriptBoard([ControlEvent(seconds, "level", float(index)) for index, seconds in enumerate(times)])
    heard: list[BoardEvent] = []
    for until in sorted(polls):
        given_now = board.poll(until)
        assert all(event.seconds <= until for event in given_now)
        heard += given_now
        assert len(heard) == sum(seconds <= until for seconds in times)
    heard += board.poll(1_000)
    assert [event.value for event in heard] == [float(i) for i in sorted(range(len(times)), key=lambda i: times[i])]
    assert board.poll(2_000) == []


def test_names_are_those_that_the_appliance_acts_on() -> None:
    kept_from_boards = {"delay_frames", "running", "turn", "prompt_1", "second_prompt_1"}  # main's own: derived, or the other slot's
    controls = {control.name.lower() for control in Control} - kept_from_boards
    assert set(CONTROL_NAMES) == controls | {"delay_ms", "time", "subdivision", "tap", "preset", "bank", "save"}
    assert set(SWITCHES) <= set(CONTROL_NAMES)
