"""A guitarist and an amp in one JACK client: plays SOURCE into `tester:guitar`, records `tester:amp` into RECORD (both raw float32).

    python jack_player.py SERVER SOURCE RECORD

Says `ready` once its ports exist, plays from then on, and ends when the source has ended or its standard input closes. It is a
process of its own so that no other Python code can hold up its process callback.
"""

from __future__ import annotations

import gc
import select
import sys

import jack
import numpy as np


def main(server: str, source_path: str, record_path: str) -> None:
    source = np.fromfile(source_path, np.float32)
    record = np.zeros_like(source)
    client = jack.Client("tester", servername=server, no_start_server=True)
    guitar, amp = client.outports.register("guitar"), client.inports.register("amp")
    played = 0

    @client.set_process_callback  # type: ignore[untyped-decorator]
    def process(frames: int) -> None:
        nonlocal played
        count = min(frames, len(source) - played)
        guitar.get_array()[:count] = source[played : played + count]
        guitar.get_array()[count:] = 0
        record[played : played + count] = amp.get_array()[:count]
        played += count

    gc.collect()
    gc.freeze()
    gc.disable()
    client.activate()
    print("ready", flush=True)
    while played < len(source) and not select.select([sys.stdin], [], [], 0.05)[0]:
        pass
    client.deactivate()
    record[:played].tofile(record_path)
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
