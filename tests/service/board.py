"""The board inside the container: the real firmware under the unix MicroPython, plugged in and unplugged, pressed and looked at.

    python3 board.py CLONE       stdin: `plug`, `unplug`, `press N`, `hold N`, `look`      stdout: a line in answer to each

The answer is JSON: whether the relay has the pedal in the signal path, and the lights' colours.

Its name is /dev/ghostnote-board, as udev's rules give it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

NAME = Path("/dev/ghostnote-board")
PRESS_SECONDS, HOLD_SECONDS = 0.1, 3.5


def main(clone: str) -> None:
    sys.path.insert(0, clone)
    from tests.firmware.rig import Rig

    folder = Path(tempfile.mkdtemp(dir="/run"))
    folder.chmod(0o755)
    rig = Rig(folder)
    NAME.unlink(missing_ok=True)
    NAME.symlink_to(rig.device)
    permit(rig.device)
    print("ready", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "plug":
            rig.plug()
            permit(rig.device)
        elif word == "unplug":
            rig.unplug()
        elif word in ("press", "hold"):
            rig.press(int(rest[0]))
            time.sleep(PRESS_SECONDS if word == "press" else HOLD_SECONDS)
            rig.release(int(rest[0]))
        print(json.dumps([rig.relay, rig.colours]), flush=True)
    rig.close()


def permit(device: str) -> None:
    """As udev would: the line belongs to a group that the pedal is in."""
    os.chmod(os.path.realpath(device), 0o666)


if __name__ == "__main__":
    main(sys.argv[1])
