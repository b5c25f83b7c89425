"""What goes wrong in the set: each kind of fault, done to card, board, processes and engines.

Times are those of the virtual clock; what ends by itself is put on the machine's list of things to come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from appliance.takeover import TakeoverError
from tests.gig.engine import Load
from tests.gig.machine import FOREVER, Process
from tests.gig.score import Fault

if TYPE_CHECKING:
    from tests.gig.gig import Gig

TOO_SLOW = 300.0  # one step takes longer than the longest delay of the set: no engine that is right for some presets only


class Infliction:
    """`inflict` when a fault is due."""

    def __init__(self, gig: Gig) -> None:
        self.gig = gig

    def inflict(self, fault: Fault) -> None:
        {
            "card stalls": lambda: self.gig.card.stall(int(fault.seconds * 44_100)),
            "audio starved": lambda: self._hold(self._audio, fault.seconds, "R"),
            "card loses frames": lambda: self.gig.card.lose(int(fault.seconds * 44_100)),
            "card fails once": lambda: setattr(self.gig.card, "fails_once", True),
            "card unplugged": lambda: self._unplug_card(fault.seconds),
            "audio killed": lambda: self._kill(self._audio),
            "audio hangs": lambda: self._hold(self._audio, FOREVER / 2e9, "S"),
            "engine killed": lambda: self._kill(self._worker),
            "engine hangs": self._stick,
            "engine stopped": lambda: self._hold(self._worker, fault.seconds, "T"),
            "engine slow": lambda: self._slow(8, fault.seconds),
            "heat": lambda: self._heat(fault.seconds),
            "board unplugged": lambda: self._without_board(fault.seconds),
            "board silent": lambda: self._silence_board(fault.seconds),
            "garbage on the wire": lambda: self.gig.board.garbage(3_000),
            "flood on the wire": lambda: [self.gig.at(self.gig.seconds + n / 100, self.gig.board.flood) for n in range(30)] and None,
            "main killed": self._kill_main,
            "engine switch": lambda: self.gig.asked.append(lambda: self._switch(fault.at)),
            "new engine dies": lambda: self.gig.asked.append(lambda: self._switch(fault.at, dies_after=0.3 + fault.at % 2)),
            "new engine slow": lambda: self.gig.asked.append(lambda: self._switch(fault.at, Load(TOO_SLOW))),
        }[fault.kind.name]()  # type: ignore[no-untyped-call]

    @property
    def _worker(self) -> Process | None:
        return cast("Process | None", self.gig.pedal.slot.child.process) if self.gig.pedal else None

    @property
    def _audio(self) -> Process | None:
        return cast("Process | None", self.gig.pedal.audio.process) if self.gig.pedal else None

    def _kill(self, process: Process | None) -> None:
        if process:
            self.gig.machine.kill(process)

    def _hold(self, process: Process | None, seconds: float, held_as: str) -> None:
        if process and process.returncode is None:
            self.gig.machine.hold(process, int(seconds * 1e9), held_as)

    def _unplug_card(self, seconds: float) -> None:
        self.gig.card.unplug()
        self.gig.at(self.gig.seconds + seconds, lambda: setattr(self.gig.card, "present", True))

    def _stick(self) -> None:
        """The engine never comes back; it is let go only after its process is dead."""
        worker = self._worker
        self.gig.load.stuck = True

        def free() -> None:
            if worker is None or worker.returncode is not None:
                self.gig.load.stuck = False
            else:
                self.gig.at(self.gig.seconds + 0.1, free)

        free_at = self.gig.seconds + 0.5
        self.gig.at(free_at, free)

    def _slow(self, times: float, seconds: float) -> None:
        self.gig.load.times = times
        self.gig.at(self.gig.seconds + seconds, lambda: setattr(self.gig.load, "times", 1.0))

    def _heat(self, seconds: float) -> None:
        """The clock goes down step by step, stays, and comes back."""
        self.gig.hot = True
        begin, steps = self.gig.seconds, 40
        for step in range(steps + 1):
            way = step / steps
            times = 1 + 3.2 * min(1, 3 * way, 4 * (1 - way))
            self.gig.at(begin + seconds * way, lambda times=times: setattr(self.gig.load, "times", times))  # type: ignore[misc]
        self.gig.at(begin + seconds + 0.1, lambda: setattr(self.gig, "hot", False))

    def _without_board(self, seconds: float) -> None:
        self.gig.board.unplug()
        self.gig.at(self.gig.seconds + seconds, self.gig.board.plug_in)

    def _silence_board(self, seconds: float) -> None:
        self.gig.board.silent = True
        self.gig.at(self.gig.seconds + seconds, lambda: setattr(self.gig.board, "silent", False))

    def _kill_main(self) -> None:
        assert self.gig.pedal
        self.gig.before = self.gig.seconds, self.gig.pedal.playing.state()
        self.gig.machine.kill(self.gig.machine.main)
        self.gig.computer.kill_all()

    def _switch(self, at: float, load: Load | None = None, dies_after: float = 0.0) -> None:
        """Another engine is asked for; it may be too slow, or die on the way."""
        assert self.gig.pedal
        self.gig.computer.next_load = load
        try:
            self.gig.pedal.take_over("elm" if self.gig.engine == "ash" else "ash")
        except TakeoverError as error:
            self.gig.switches.append((at, "refused", str(error)))
            return
        self.gig.switching = at
        if dies_after:
            self.gig.at(self.gig.seconds + dies_after, self._kill_coming)

    def _kill_coming(self) -> None:
        if self.gig.pedal and self.gig.pedal.takeover.coming:
            self._kill(self.gig.pedal.takeover.coming.child.process)
