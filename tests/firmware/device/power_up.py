"""What MicroPython on a board does by itself: run main.py, and when that ends, serve the console.

Of the console only the raw mode is here (docs.micropython.org, "The raw REPL"), which is what programs talk to. Code that it is given
is really run.

Runs in: the unix MicroPython, in tests.
"""

import io
import os
import sys

INTERRUPT, RAW, NORMAL, RUN = b"\x03", b"\x01", b"\x02", b"\x04"
STOPPED_EXIT_CODE = 8


def say(data):
    sys.stdout.buffer.write(data)


class Captured(io.IOBase):
    """Stands in for stdout while code runs."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data)
        return len(data)


def run(code):
    names = {}
    said = []
    names["print"] = lambda *words: said.append(" ".join(str(word) for word in words) + "\r\n")
    error = ""
    try:
        exec(code, names)
    except Exception as problem:
        caught = Captured()
        sys.print_exception(problem, caught)
        error = caught.data.decode()
    say(b"OK" + "".join(said).encode() + RUN + error.encode() + RUN + b">")


def console():
    say(b"MicroPython on a PC\r\n>>> ")
    raw, code = False, b""
    while True:
        byte = sys.stdin.buffer.read(1)
        if not byte:
            sys.exit(STOPPED_EXIT_CODE)
        if byte == RAW:
            raw, code = True, b""
            say(b"raw REPL; CTRL-B to exit\r\n>")
        elif byte == NORMAL:
            raw = False
        elif byte == INTERRUPT:
            code = b""
        elif byte == RUN and raw and code:
            run(code.decode())
            code = b""
        elif byte == RUN:
            import machine

            machine.reset()
        elif raw:
            code += byte


sys.path.insert(0, os.getcwd())
import main  # noqa: E402,F401

console()
