"""The shortest program that plays through a port: what comes in goes out. Prints what happened as JSON.

python port_loop.py ADDRESS FORMAT PERIODS STALL_AT      FORMAT: an AudioFormat as JSON; STALL_AT: -1 for none
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict

import numpy as np

from appliance.realtime import enter_realtime
from hw.audio import AudioFormat, PortError, open_audio

STALL_SECONDS = 0.1


def main(address: str, facts: str, periods: int, stall_at: int) -> int:
    format = AudioFormat(**json.loads(facts))
    try:
        port = open_audio(address, format)
    except PortError as error:
        print(error, file=sys.stderr)
        return 2
    period = np.zeros((format.period_frames, format.in_channels), np.float32)
    enter_realtime(60, None)
    turns, cpu_ns = 0, -time.thread_time_ns()
    while turns < periods and port.read(period):
        port.write(period)
        turns += 1
        if turns == stall_at:
            time.sleep(STALL_SECONDS)
    cpu_us = (cpu_ns + time.thread_time_ns()) / 1000 / max(turns, 1)
    port.close()
    print(json.dumps({"turns": turns, "lag_frames": port.lag_frames, "cpu_us": cpu_us, **asdict(port.health)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
