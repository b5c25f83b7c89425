"""Frames on the wire and what the host makes of them: whole, in pieces, damaged, lost, repeated, and from a board that began anew."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw import wire
from hw.board import Colour, KnobEvent, Light, Lights, Pattern, SwitchEvent
from hw.link import BoardFacts, Link
from tests.hw.fuzz import Damage

BOARD_AHEAD_SECONDS = 3_000.0  # the board's clock wraps after 4,295 s: the tests cross that


class Board:
    """The board's end, with no noise and no delay: pins are attributes, time is an argument."""

    def __init__(self, session: int = 77, version: int = wire.VERSION) -> None:
        self.sender = wire.Sender(session, version)
        self.edges, self.edge_seconds = [0] * wire.SWITCHES, [0.0] * wire.SWITCHES
        self.knobs = [512] * (wire.KNOBS - 1) + [wire.KNOB_ABSENT]

    def edge(self, switch: int, seconds: float) -> SwitchEvent:
        self.edges[switch] = (self.edges[switch] + 1) & 0xFF
        self.edge_seconds[switch] = seconds
        return SwitchEvent(seconds, switch, bool(self.edges[switch] & 1))

    def hello(self, seconds: float) -> bytes:
        return self.sender.pack(wire.HELLO, self._us(seconds), 1, 4, 6)

    def state(self, seconds: float) -> bytes:
        ages = [min(int((seconds - edge) * 1e6) // wire.AGE_US, wire.AGE_MOST) for edge in self.edge_seconds]
        return self.sender.pack(wire.STATE, self._us(seconds), *self.edges, *ages, *self.knobs)

    @staticmethod
    def _us(seconds: float) -> int:
        return int((seconds + BOARD_AHEAD_SECONDS) * 1e6)


def met(now: float = 1.0) -> tuple[Board, Link]:
    board, link = Board(), Link()
    assert link.receive(board.hello(now), now) == []
    link.receive(board.state(now), now)
    return board, link


def same(events: list[SwitchEvent | KnobEvent], wanted: list[SwitchEvent], within: float = 0.0003) -> bool:
    """Equal but for microseconds."""
    heard = [event for event in events if isinstance(event, SwitchEvent)]
    alike = [(a.switch, a.down) == (b.switch, b.down) and abs(a.seconds - b.seconds) <= within for a, b in zip(heard, wanted, strict=False)]
    return len(heard) == len(wanted) and all(alike)


@given(st.binary(max_size=200))
def test_cobs_has_no_zeros_and_comes_back(data: bytes) -> None:
    encoded = wire.cobs_encode(data)
    assert 0 not in encoded and len(encoded) == len(data) + 1
    assert wire.cobs_decode(encoded) == data


def test_crc_is_the_published_one() -> None:
    assert wire.crc16(b"123456789") == 0x29B1  # CRC-16/CCITT-FALSE's check value


@given(st.lists(st.integers(1, 9), max_size=40), st.binary(max_size=30))
def test_frames_come_out_of_any_pieces_and_after_any_garbage(cuts: list[int], garbage: bytes) -> None:
    board, decoder = Board(), wire.Decoder()
    stream = garbage + board.state(1) + board.hello(2)
    frames, at = [], 0
    for cut in [*cuts, len(stream)]:
        frames += decoder.feed(stream[at : at + cut])
        at += cut
    assert [frame.kind for frame in frames][-2:] == [wire.STATE, wire.HELLO]


def test_clocks_wrap() -> None:
    assert wire.later_us(5, 0xFFFFFFFB) == 10
    assert wire.later_us(0xFFFFFFFB, 5) == -10


def test_a_knob_is_told_once_and_never_when_absent() -> None:
    board, link = Board(), Link()
    link.receive(board.hello(1), 1)
    first = link.receive(board.state(1), 1)
    assert [(event.knob, event.value) for event in first if isinstance(event, KnobEvent)] == [(k, 512 / 1023) for k in range(6)]
    assert link.receive(board.state(1.05), 1.05) == []
    board.knobs[2], board.knobs[6] = 1023, 0
    assert link.receive(board.state(1.1), 1.1) == [KnobEvent(pytest.approx(1.1), 2, 1.0), KnobEvent(pytest.approx(1.1), 6, 0.0)]


def test_an_edge_has_the_time_of_the_edge_even_if_its_frame_was_lost() -> None:
    board, link = met()
    wanted = [board.edge(1, 1.010)]
    board.state(1.012)  # lost
    assert same(link.receive(board.state(1.050), 1.051), wanted, 0.0013)
    assert link.peer.lost == 1


def test_a_press_and_release_of_which_nothing_arrived_are_both_told() -> None:
    board, link = met()
    board.edge(0, 1.010), board.edge(0, 1.045)
    events = link.receive(board.state(1.050), 1.050)
    assert [(event.switch, event.down) for event in events if isinstance(event, SwitchEvent)] == [(0, True), (0, False)]


def test_a_switch_held_while_the_board_appears_is_not_pressed() -> None:
    board, link = Board(), Link()
    board.edge(0, 0.5)
    events = link.receive(board.hello(1) + board.state(1), 1)
    assert same(events, [])
    board.edge(0, 1.2)
    assert same(link.receive(board.state(1.2), 1.2), [])  # let go: nobody thought it was down
    assert same(link.receive(board.state(1.25), 1.25), [])
    wanted = [board.edge(0, 1.3)]
    assert same(link.receive(board.state(1.3), 1.3), wanted)


def test_a_board_that_began_anew_releases_what_was_held_and_presses_nothing() -> None:
    board, link = met()
    board.edge(2, 1.02)
    link.receive(board.state(1.03), 1.03)
    again = Board(session=78)
    assert link.receive(again.state(2.0), 2.0) == []  # a session nobody has greeted
    assert link.beat(Lights(), True, 2.0)  # names session 77, so the board answers with a hello
    events = link.receive(again.hello(2.1) + again.state(2.1), 2.1)
    assert [(event.switch, event.down) for event in events if isinstance(event, SwitchEvent)] == [(2, False)]
    assert link.facts == BoardFacts(1, 4, 6)


def test_what_comes_again_or_late_changes_nothing() -> None:
    board, link = met()
    old = board.state(1.01)
    wanted = [board.edge(0, 1.02)]
    press = board.state(1.02)
    assert same(link.receive(old + press, 1.03), wanted, 0.012)
    assert link.receive(press + old + press, 1.04) == []
    assert link.receive(old, 40.0) == []


def test_a_line_that_was_held_up_is_believed_again_at_once() -> None:
    board, link = met()
    queued = [board.state(1 + n * 0.05) for n in range(1, 30)]
    link.receive(b"".join(queued), 2.5)  # the first of them are too old, the last are not
    wanted = [board.edge(0, 2.51)]
    assert same(link.receive(board.state(2.51), 2.51), wanted)


def test_lights_arrive_as_they_were_sent() -> None:
    _, link = met()
    amber, blue = Light(Colour.AMBER, Pattern.FAST_BLINK), Light(Colour.BLUE)
    lights = Lights(status=Light(Colour.GREEN), deadline=amber, switches=(blue,), clip=True, beat_seconds=0.5)
    (frame,) = wire.Decoder().feed(link.beat(lights, True, 2.0))
    assert frame.fields == (wire.ALIVE | wire.CLIP, 77, 3, 2 | 2 << 4, 4, 0, 0, 0, 500)
    (frame,) = wire.Decoder().feed(link.beat(Lights(relay_bypass=True, beat_seconds=100), False, 2.0))
    assert frame.fields == (wire.RELAY_BYPASS, 77, 0, 0, 0, 0, 0, 0, 65_535)


def test_another_version_is_named_and_its_events_are_not_used() -> None:
    link, newer = Link(), Board(version=wire.VERSION + 1)
    assert link.receive(newer.hello(1) + newer.state(1), 1) == []
    assert link.decoder.other_version == wire.VERSION + 1
    assert [frame.kind for frame in wire.Decoder().feed(wire.Sender(1, 9).pack(wire.RELEASE, 0, wire.RELEASE_WORD))] == [wire.RELEASE]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_million_damaged_bytes_give_no_wrong_event(seed: int) -> None:
    """A set is played while the line is bad: nothing that was not done is told, nothing that was done is missing in the end, and
    the second whole frame after any damage is understood at the latest."""
    damage, dice = Damage(seed), random.Random(seed)
    (board, link), now = met(), 1.0
    done, told, values, whole = [], [], {512}, 0
    while damage.bytes < 1_000_000:
        now += dice.choice((0.003, 0.02, 0.05))
        if dice.random() < 0.3:
            done.append(board.edge(dice.randrange(wire.SWITCHES), now))
        if dice.random() < 0.3:
            board.knobs[dice.randrange(6)] = value = dice.randrange(wire.KNOB_FULL + 1)
            values.add(value)
        damaged = dice.random() < 0.7
        frame = board.state(now)
        told += link.receive(damage.strike(frame) if damaged else frame, now)
        whole = 0 if damaged else whole + 1
        assert whole < 2 or link.last_heard_seconds == now
    told += link.receive(b"\x00" + board.state(now + 0.01) + board.state(now + 0.02), now + 0.02)
    assert {round(event.value * wire.KNOB_FULL) for event in told if isinstance(event, KnobEvent)} <= values
    for switch in range(wire.SWITCHES):
        heard = [event.down for event in told if isinstance(event, SwitchEvent) and event.switch == switch]
        assert heard == [event.down for event in done if event.switch == switch]
    assert link._knobs == board.knobs
