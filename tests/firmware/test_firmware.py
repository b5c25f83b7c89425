"""The real firmware under the unix MicroPython, over a pty, with the real host side at the other end."""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable, Iterator

import pytest

from hw import wire
from hw.board import EXPRESSION, BoardEvent, Colour, KnobEvent, Light, Lights, Pattern, SwitchEvent
from hw.serial_board import AWAY, STRANGE, WELL, SerialBoard, open_line
from tests.firmware.rig import REPO, Rig, prefer, wait_until
from tests.hw.fuzz import Damage

TICK_SECONDS = 0.010  # main's
GREEN, BLUE = Light(Colour.GREEN), Light(Colour.BLUE)
RED_RGB, GREEN_RGB, BLUE_RGB, DARK = (48, 0, 0), (0, 48, 0), (0, 0, 48), (0, 0, 0)


class Host:
    """Main's loop, with the monotonic clock as the audio clock."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.began = rig, time.monotonic()
        self.board = SerialBoard(rig.device)
        self.lights, self.alive = Lights(status=GREEN), True
        self.events: list[BoardEvent] = []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def turn(self) -> None:
        self.events += self.board.poll(self.seconds)
        self.board.show(self.lights, self.alive)

    def until(self, condition: Callable[[], object], seconds: float = 15.0) -> bool:
        return wait_until(condition, seconds, self.turn)

    def go_on(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, seconds + 1)

    def meet(self) -> None:
        assert self.until(lambda: self.rig.relay and self.board.link.facts, 10), self.rig.errors()
        self.go_on(0.12)
        self.events.clear()

    def switches(self) -> list[tuple[int, bool]]:
        return [(event.switch, event.down) for event in self.events if isinstance(event, SwitchEvent)]

    def knobs(self) -> list[tuple[int, float]]:
        return [(event.knob, event.value) for event in self.events if isinstance(event, KnobEvent)]


@pytest.fixture
def host(rig: Rig) -> Iterator[Host]:
    one = Host(rig)
    yield one
    one.board.close()


def edges_ms(host: Host, count: int = 400) -> dict[str, list[float]]:
    """Sorted: from a contact's first change to the event in the host's hand, waiting as main does; how far off the moment is that the
    event names; and how late this machine wakes a sleeper, whatever we do."""
    dice, took = random.Random(3), {"event": [], "moment off": [], "wake-up": []}
    for edge in range(count):
        host.go_on(dice.uniform(0.012, 0.016))
        host.events.clear()
        began = time.monotonic()
        time.sleep(0.001)
        at = host.rig.press(edge // 2 % 4, edge % 2 == 0)
        took["wake-up"].append(1_000 * (at - began) - 1)
        while not host.switches():
            waiting = select.poll()
            for fd in host.board.wake_fds():
                waiting.register(fd, select.POLLIN)
            waiting.poll(TICK_SECONDS * 1_000)
            host.turn()
            assert time.monotonic() - at < 2
        took["event"].append(1_000 * (time.monotonic() - at))
        assert host.switches() == [(edge // 2 % 4, edge % 2 == 0)]
        took["moment off"].append(1_000 * abs(host.events[-1].seconds - (at - host.began)))
    return {name: sorted(values) for name, values in took.items()}


def test_switch_to_host_event_takes_15_ms_at_most_in_99_of_100(host: Host) -> None:
    """A machine with other things to do adds delays of its own: it may try again, and if it is too busy throughout, that is said."""
    host.meet()
    before, busy = os.getpriority(os.PRIO_PROCESS, 0), []
    prefer(0)
    try:
        for _ in range(4):
            rank = {name: (values[len(values) // 2], values[-5], values[-1]) for name, values in edges_ms(host).items()}
            print("; ".join(f"{name}: p50 {a:.1f}, p99 {b:.1f}, largest {c:.1f} ms" for name, (a, b, c) in rank.items()))
            if rank["event"][1] <= 15 and rank["moment off"][1] <= 10:
                return
            busy.append(rank["wake-up"][1] > 3)
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
    if all(busy):
        pytest.skip(f"this machine is too busy to measure milliseconds: a sleeper wakes {rank['wake-up'][1]:.0f} ms late")
    pytest.fail(f"99 of 100 within {rank['event'][1]:.1f} ms, their moments within {rank['moment off'][1]:.1f} ms")


def test_a_bouncing_contact_is_one_press(host: Host) -> None:
    """A burst that this machine drew out, so that it was no bouncing any more, does not count."""
    host.meet()
    clean = 0
    for _ in range(200):
        whole = True
        for level in (True, False):
            host.events.clear()
            began = time.monotonic()
            for bounce in (level, not level) * 3 + (level,):
                host.rig.press(0, bounce)
                time.sleep(0.0004)
            whole = whole and time.monotonic() - began < 0.006
            host.go_on(0.03)
            assert not whole or host.until(lambda level=level: host.switches() == [(0, level)], 1), host.switches()
        clean += whole
        if clean == 10:
            return
    pytest.skip("this machine is too busy to bounce a contact within milliseconds")


def test_knobs_stand_still_in_noise_and_reach_both_ends(host: Host) -> None:
    host.meet()
    dice = random.Random(5)
    host.rig.turn(3, 0.5)
    assert host.until(lambda: host.knobs() and abs(host.knobs()[-1][1] - 0.5) < 0.004)
    for told in (None, []):  # the first time it may still settle
        for _ in range(100):
            host.rig.turn(3, 0.5 + dice.uniform(-0.001, 0.001))
            host.go_on(0.005)
        assert told is None or host.knobs() == told
        host.events.clear()
    for worn, end in ((0.01, 0.0), (0.99, 1.0)):
        host.rig.turn(3, worn)
        assert host.until(lambda end=end: host.knobs() and host.knobs()[-1] == (3, end))
    assert {knob for knob, _ in host.knobs()} == {3}


def test_an_expression_pedal_comes_and_goes(host: Host) -> None:
    host.rig.turn(EXPRESSION, 0.7)
    host.meet()
    host.go_on(0.1)
    assert host.knobs() == []
    host.rig.plug_expression()
    assert host.until(lambda: host.knobs())
    assert host.knobs()[-1] == (EXPRESSION, pytest.approx(0.7, abs=0.01))
    host.rig.plug_expression(False)
    host.events.clear()
    host.go_on(0.2)
    assert host.knobs() == []


def test_lights_show_colours_patterns_beat_and_clip(host: Host) -> None:
    host.lights = Lights(GREEN, Light(Colour.RED, Pattern.FAST_BLINK), (BLUE, Light(), GREEN), clip=True, beat_seconds=0.3)
    host.meet()
    white = (200 * 48 // 255,) * 3
    wanted = [{GREEN_RGB}, {RED_RGB, DARK}, {BLUE_RGB}, {DARK}, {GREEN_RGB}, {DARK}, {white, DARK}, {RED_RGB}]
    seen: list[set[tuple[int, int, int]]] = [set() for _ in range(8)]

    def look() -> bool:
        for light, colour in zip(seen, host.rig.colours, strict=True):
            light.add(colour)
        return seen == wanted

    host.until(look)
    for _ in range(50):
        host.go_on(0.01)
        look()
    assert seen == wanted


def test_without_a_living_heartbeat_the_relay_falls_and_the_light_is_red(host: Host) -> None:
    host.meet()
    took = []
    for beats_go_on in (False, True) * 3:
        host.go_on(0.1)
        host.alive = False
        last_alive = host.board._beat_at
        turn = host.turn if beats_go_on else (lambda: None)
        assert wait_until(lambda: not host.rig.relay, 5, turn)
        took.append(time.monotonic() - last_alive)
        assert wait_until(lambda: host.rig.colours == [RED_RGB] + [DARK] * 7, 5, turn)
        host.alive = True
        assert host.until(lambda: host.rig.relay and host.rig.colours[0] == GREEN_RGB)
    print("relay fell after", *(f"{1_000 * seconds:.0f}" for seconds in took), "ms")
    assert min(took) >= 0.249 and sorted(took)[1] <= 0.30  # this machine may hold up the firmware, or our look at it, now and then


def test_the_player_may_ask_for_the_relay(host: Host) -> None:
    host.meet()
    host.lights = Lights(status=GREEN, relay_bypass=True)
    assert host.until(lambda: not host.rig.relay)
    host.go_on(0.3)
    assert not host.rig.relay and host.rig.colours[0] == GREEN_RGB
    host.lights = Lights(status=GREEN)
    assert host.until(lambda: host.rig.relay)


def test_unplugged_and_plugged_in_again_at_any_time(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    host.meet()
    host.rig.press(1)
    assert host.until(lambda: host.switches() == [(1, True)])
    for _ in range(3):
        host.rig.unplug()
        assert host.until(lambda: host.board.state == AWAY)
        assert host.board.wake_fds() == () and not host.rig.relay
        host.go_on(0.6)
        host.rig.release(1)
        host.rig.plug()
        assert host.until(lambda: host.board.state == WELL and host.rig.relay, 10)
    assert host.until(lambda: host.switches() == [(1, True), (1, False)])
    lines = [record.getMessage() for record in caplog.records]
    assert sum("is gone (it hung up)" in line for line in lines) == 3
    silences = sum("says nothing" in line for line in lines)  # this machine may hold up the board for a second
    assert sum("is here" in line for line in lines) <= 4 + silences
    assert len(lines) <= 7 + 2 * silences


def test_a_board_that_is_not_there_yet(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.unplug()
    host = Host(rig)
    host.go_on(0.2)
    assert host.board.state == AWAY and host.events == []
    assert "can't be opened (no such file or directory): plug it in" in caplog.text
    rig.plug()
    host.meet()
    assert host.board.state == WELL
    host.board.close()


@pytest.mark.parametrize(("version", "says"), [(0, "update the board with `ghostnote board flash"), (2, "update Ghostnote, or put")])
def test_another_wire_version_is_named(rig: Rig, version: int, says: str, caplog: pytest.LogCaptureFixture) -> None:
    rig.stop()
    text = (REPO / "hw" / "wire.py").read_text()
    (rig.flash / "wire.py").write_text(text.replace(f"\nVERSION = {wire.VERSION}\n", f"\nVERSION = {version}\n"))
    rig.start()
    host = Host(rig)
    assert host.until(lambda: host.board.state == STRANGE)
    violet = (150 * 48 // 255, 0, 48)
    assert host.until(lambda: rig.colours[0] == violet) and host.until(lambda: rig.colours[0] == DARK)
    host.go_on(1.5)
    assert not rig.relay and host.events == [] and host.board.state == STRANGE
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and f"speaks wire version {version}, this software {wire.VERSION}: {says}" in lines[0]
    host.board.close()


def test_a_million_damaged_bytes_move_nothing_on_the_board(rig: Rig) -> None:
    """Good beats in between keep it alive: the relay never falls, no light shows what was not sent, no switch is told; the second
    whole beat after the last damage is obeyed."""
    line, damage = open_line(rig.device), Damage(11)
    fd, host = line.fileno(), wire.Sender(5)
    decoder, dice = wire.Decoder(), random.Random(11)
    shown, heard = {DARK}, []
    assert wait_until(lambda: rig.colours[0] != DARK, 10)

    def send(data: bytes) -> None:
        while select.select([fd], [], [], 0)[0]:
            heard.extend(decoder.feed(os.read(fd, 4_096)))
        while data:
            if select.select([fd], [], [], 0)[0]:
                heard.extend(decoder.feed(os.read(fd, 4_096)))
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                time.sleep(0.001)

    def beat(colour: int) -> bytes:
        return host.pack(wire.BEAT, int(time.monotonic() * 1e6), wire.ALIVE, 0, colour, 0, 0, 0, 0, 0, 0)

    send(beat(Colour.GREEN))
    assert wait_until(lambda: rig.relay)
    held_up, good_at, waited = 0.0, time.monotonic(), rig.waited_seconds
    while damage.bytes < 1_000_000:
        send(damage.strike(beat(dice.choice((Colour.GREEN, Colour.BLUE)))))
        if good := dice.random() < 0.3:
            send(beat(Colour.GREEN) + beat(Colour.GREEN))
        closed = rig.relay
        held_up = max(held_up, time.monotonic() - good_at, rig.waited_seconds - waited)
        if good:
            good_at, waited = time.monotonic(), rig.waited_seconds
        shown.add(rig.colours[0])
        assert rig.alive and (closed or held_up > 0.1), rig.errors()  # where this machine held up beats or board, it may have fallen

    def hellos() -> int:
        """How many beats the board has understood: each of ours asks for a hello, by naming no session."""
        send(b"")
        return sum(frame.kind == wire.HELLO for frame in heard)

    understood = -1
    while hellos() != understood:  # what is still on its way
        understood = hellos()
        time.sleep(0.5)
    send(beat(Colour.VIOLET) + beat(Colour.VIOLET))
    violet = (150 * 48 // 255, 0, 48)
    assert wait_until(lambda: rig.colours[0] == violet), (rig.colours, rig.errors())
    assert wait_until(lambda: hellos() > understood)
    assert shown <= {DARK, GREEN_RGB, BLUE_RGB, RED_RGB, (48, 110 * 48 // 255, 0)}
    states = [frame for frame in heard if frame.kind == wire.STATE]
    assert len(states) > 20 and all(frame.fields[: wire.SWITCHES] == (0,) * wire.SWITCHES for frame in states)
    assert decoder.refused <= 1 and decoder.other_version == -1
    line.close()
