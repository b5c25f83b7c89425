"""`ghostnote board flash | monitor | learn`: what a builder does with a board before a player gets it.

Runs in: the main process of its own command; the pedal must not run, because a line has one reader.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from hw.board import BoardError, BoardEvent, Colour, ControlEvent, KnobEvent, Light, Lights, SwitchEvent, open_board
from hw.board_face import face

DEVICE = "/dev/ghostnote-board"  # as deploy/udev names it
TICK_SECONDS = 0.02
LEARN_SECONDS = 20.0
SWITCH_COUNT, KNOB_COUNT, LAST_LINES = 4, 7, 8


def flash(device: str, console: Console) -> int:
    from hw.flash import flash as put

    put(device, lambda line: console.print(line, highlight=False, markup=False))
    return 0


class Monitor:
    """What a board has told so far, and lights that answer: each switch lights its own, and the colours go round."""

    def __init__(self) -> None:
        self.down = [False] * SWITCH_COUNT
        self.knobs: list[float | None] = [None] * KNOB_COUNT
        self.lines: list[str] = []

    def take(self, events: Iterable[BoardEvent]) -> None:
        for event in events:
            if isinstance(event, SwitchEvent):
                self.down[event.switch] = event.down
                what = f"switch {event.switch + 1} {'down' if event.down else 'up'}"
            elif isinstance(event, KnobEvent):
                self.knobs[event.knob] = event.value
                continue
            else:
                what = _words(event)
            self.lines = [*self.lines, f"{event.seconds:9.3f} s  {what}"][-LAST_LINES:]

    def lights(self, seconds: float) -> Lights:
        round_colour = Colour(1 + int(seconds) % 6)
        switches = tuple(Light(Colour.GREEN if down else Colour.OFF) for down in self.down)
        return Lights(Light(round_colour), Light(Colour.WHITE), switches, beat_seconds=1.0)


def _words(event: ControlEvent) -> str:
    return f"{event.control} {event.value if isinstance(event.value, str) else round(event.value, 3)}"


def monitor(address: str, console: Console) -> int:
    """Show what the board tells until Ctrl-C. The relay closes: the board sees a host that is alive."""
    board, seen, began = open_board(address), Monitor(), time.monotonic()
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                seconds = time.monotonic() - began
                seen.take(board.poll(seconds))
                lights = seen.lights(seconds)
                board.show(lights, True)
                lines = Text("\n".join(seen.lines) or " move something; Ctrl-C ends", "dim")
                live.update(Group(face(lights, seen.down, seen.knobs, seconds), lines), refresh=True)
                time.sleep(TICK_SECONDS)
    finally:
        board.close()


def learn(address: str, target: str, console: Console) -> int:
    """The next controller that is moved shall mean `target`; kept in the address's table."""
    from hw.midi import CC, MidiBoard
    from hw.midi_map import TARGETS

    if target not in TARGETS:
        raise BoardError(f"target {target!r} is unknown: use one of {', '.join(TARGETS)}")
    board = MidiBoard.from_address(address.removeprefix("midi:"))
    try:
        if board.address.map is None:
            raise BoardError("learn needs a table to write to: name it, such as midi:?map=midi.toml")
        console.print(f"move what shall be {target!r} ({LEARN_SECONDS:.0f} s)", highlight=False)
        give_up_at = time.monotonic() + LEARN_SECONDS
        while time.monotonic() < give_up_at:
            for _, message in board.messages():
                if message[0] & 0xF0 == CC and len(message) == 3:
                    board.map.learned(message[1], target).save(board.address.map)
                    console.print(f"controller {message[1]} is {target!r} now, in {board.address.map}", highlight=False, markup=False)
                    return 0
            time.sleep(TICK_SECONDS)
        raise BoardError("no controller was moved: check the cable, and which inputs `ghostnote board monitor midi:` names")
    finally:
        board.close()


def add_board(commands: argparse._SubParsersAction[argparse.ArgumentParser], console: Console) -> None:
    """The command line of all this."""
    actions = commands.add_parser("board", help="footswitches, knobs and MIDI").add_subparsers(required=True, metavar="ACTION")
    one = actions.add_parser("flash", help="put the firmware onto a board")
    one.add_argument("device", nargs="?", default=DEVICE, help=f"default: {DEVICE}")
    one.set_defaults(command=lambda arguments: flash(arguments.device, console))
    one = actions.add_parser("monitor", help="show live what a board tells")
    one.add_argument("address", nargs="?", default=f"serial:{DEVICE}", help=f"as in the config's board.port; default: serial:{DEVICE}")
    one.set_defaults(command=lambda arguments: monitor(arguments.address, console), log_level=logging.INFO)
    one = actions.add_parser("learn", help="let a MIDI controller mean something")
    one.add_argument("address", help="such as midi:?map=midi.toml, the same as in board.port")
    one.add_argument("target", help="a control such as mix or freeze, or `switch 1`, `knob 1`, expression, tap")
    one.set_defaults(command=lambda arguments: learn(arguments.address, arguments.target, console))
