"""The real audio process on a file whose card stalls on command: `python -m tests.appliance.faulty_audio SETTINGS`.

As a USB interface that loses its clock for a moment does: the read comes late, and the port has an xrun to report.
"""

from __future__ import annotations

import os
import sys
import time

from appliance.audio import AudioLoop, AudioSettings
from appliance.realtime import end_with_parent, enter_realtime
from appliance.shared import SharedMemory
from hw.audio import Frames
from hw.file_audio import FilePort
from tests.appliance.faulty_worker import FAULT, Fault

STALL_SECONDS, EVERY_TURNS = 0.05, 60


class StallingPort(FilePort):
    """A FilePort with a card that stalls while `controls[FAULT]` says so."""

    memory: SharedMemory
    turns = 0

    def read(self, into: Frames) -> bool:
        self.turns += 1
        if self.memory.controls[FAULT] == Fault.CARD and self.turns % EVERY_TURNS == 0:
            time.sleep(STALL_SECONDS)
        return super().read(into)


def main(argv: list[str]) -> int:
    end_with_parent()
    settings = AudioSettings.from_json(argv[0])
    memory = SharedMemory.attach(settings.memory_fd)
    port = StallingPort.from_address(settings.port.partition(":")[2], settings.format)
    assert isinstance(port, StallingPort)
    port.memory = memory
    loop = AudioLoop(port, memory, settings.doorbell_fds, settings.wet)
    enter_realtime(settings.priority, settings.core, settings.lock_memory)
    parent = os.getppid()
    while os.getppid() == parent and loop.turn():
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
