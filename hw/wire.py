"""What board and host say to each other over a serial line. This one file runs under CPython on the host and MicroPython on the board.

A frame is COBS-encoded between two zero bytes, so that any garbage before it ends with its first byte:

    version  session  sequence  time_us  kind  payload  crc16
    u8       u8       u16       u32      u8    by kind  u16        little-endian; CRC-16/CCITT-FALSE over all before it

    board -> host   HELLO   when the host does not seem to know this session; STATE every 50 ms and whenever something moves
    host -> board   BEAT    every 50 ms and whenever a light changes; RELEASE makes room for new firmware

STATE says how everything is, not what happened: a count of edges per switch (odd is down) with the age of the last one, and all
knobs. So a lost frame loses nothing, and a repeated one repeats nothing. Whatever version comes next: the places of version, kind
and CRC, and RELEASE, stay as they are.

Runs in: the main process, and on the board. Only what both Pythons have may be used here.
"""

import struct

VERSION = 1

HELLO, STATE, BEAT, RELEASE = 1, 2, 16, 17

SWITCHES, KNOBS, LIGHTS = 4, 7, 6  # places in a frame; lights are status, deadline, and one per switch
KNOB_FULL, KNOB_ABSENT = 1_023, 0xFFFF
AGE_US = 100  # unit of an edge's age
AGE_MOST = 0xFFFF
ALIVE, CLIP, RELAY_BYPASS = 1, 2, 4  # flags of a BEAT
RELEASE_WORD = 0x4C504552

HEARTBEAT_US = 50_000
DEADMAN_US = 250_000  # without a living heartbeat for so long the board goes to true bypass

_HEAD = "<BBHIB"
_HEAD_BYTES = struct.calcsize(_HEAD)
_PAYLOADS = {
    HELLO: "<HBB",  # firmware revision, switches, lights
    STATE: "<%dB%dH%dH" % (SWITCHES, SWITCHES, KNOBS),  # noqa: UP031  edges, ages, knobs
    BEAT: "<BB%dBH" % LIGHTS,  # noqa: UP031  flags, session heard from the other side (0: none), lights, beat in ms
    RELEASE: "<I",  # RELEASE_WORD
}
_CRC_BYTES = 2
MOST_BYTES = _HEAD_BYTES + struct.calcsize(_PAYLOADS[STATE]) + _CRC_BYTES + 1  # of the longest frame, encoded, between its zeros

_ALL_32, _HALF_32 = 0xFFFFFFFF, 0x80000000
_LATER_US = 500_000  # by so much more than the frame before it, a frame may have been on its way
_SOONER_US = 10_000_000  # ... and by so much less: a line that was held up may be free again
_AHEAD_MOST = 500  # frames that may be lost in a row
_FORGET_US = 2_000_000  # frames come, but none fits for so long: begin anew


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        table.append(crc & 0xFFFF)
    return table


_CRC = _crc_table()


def crc16(data: "bytes | bytearray") -> int:
    crc = 0xFFFF
    for byte in data:
        crc = ((crc << 8) & 0xFFFF) ^ _CRC[(crc >> 8) ^ byte]
    return crc


def cobs_encode(data: "bytes | bytearray") -> bytearray:
    """`data`, shorter than 254 bytes, without zeros and one byte longer."""
    out = bytearray(len(data) + 1)
    code_at = 0
    for at, byte in enumerate(data, 1):
        if byte:
            out[at] = byte
        else:
            out[code_at] = at - code_at
            code_at = at
    out[code_at] = len(out) - code_at
    return out


def cobs_decode(data: "bytes | bytearray") -> "bytearray | None":
    """The inverse; None if `data` was not encoded like this."""
    out = bytearray(data[1:])
    at = 0
    while at < len(data):
        code = data[at]
        if code == 0 or at + code > len(data):
            return None
        at += code
        if at < len(data):
            out[at - 1] = 0
    return out


def later_us(a_us: int, b_us: int) -> int:
    """a - b on clocks that wrap at 32 bits, as a signed number."""
    return ((a_us - b_us + _HALF_32) & _ALL_32) - _HALF_32


class Frame:
    """One frame that arrived whole. `fields` are the payload's numbers, in the order of its kind."""

    def __init__(self, session: int, sequence: int, time_us: int, kind: int, fields: "tuple[int, ...]") -> None:
        self.session, self.sequence, self.time_us = session, sequence, time_us
        self.kind, self.fields = kind, fields


class Sender:
    """Packs frames of one session, numbered."""

    def __init__(self, session: int, version: int = VERSION) -> None:
        self.session, self.version, self.sequence = session, version, 0

    def pack(self, kind: int, time_us: int, *fields: int) -> bytes:
        self.sequence = (self.sequence + 1) & 0xFFFF
        body = struct.pack(_HEAD, self.version, self.session, self.sequence, time_us & _ALL_32, kind)
        body += struct.pack(_PAYLOADS[kind], *fields)
        return b"\x00" + bytes(cobs_encode(body + struct.pack("<H", crc16(body)))) + b"\x00"


class Decoder:
    """Bytes in, frames out, in pieces of any size. Garbage is counted and forgotten."""

    def __init__(self) -> None:
        self._piece = bytearray()
        self._too_long = False
        self.refused = 0  # pieces between zeros that were no frame
        self.other_version = -1  # the last version, not ours, that a whole frame had; -1: none

    def feed(self, data: "bytes | bytearray") -> "list[Frame]":
        frames = []
        for byte in data:
            if byte:
                if len(self._piece) < MOST_BYTES:
                    self._piece.append(byte)
                else:
                    self._too_long = True
            elif self._piece:
                frame = None if self._too_long else self._parse()
                if frame:
                    frames.append(frame)
                self._piece = bytearray()
                self._too_long = False
        return frames

    def _parse(self) -> "Frame | None":
        body = cobs_decode(self._piece)
        if body is None or len(body) < _HEAD_BYTES + _CRC_BYTES or crc16(body[:-2]) != body[-2] | body[-1] << 8:
            self.refused += 1
            return None
        version, session, sequence, time_us, kind = struct.unpack_from(_HEAD, body)
        layout = _PAYLOADS.get(kind)
        if version != VERSION and kind != RELEASE:
            self.other_version = version
        elif layout and len(body) == _HEAD_BYTES + struct.calcsize(layout) + _CRC_BYTES:
            return Frame(session, sequence, time_us, kind, struct.unpack_from(layout, body, _HEAD_BYTES))
        else:
            self.refused += 1
        return None


class Peer:
    """Which frames of the other side are new: of its present session, in order, and on time by both clocks.

    `greeting` is the kind of frame by which a new session may be taken up. What is refused was repeated, delayed or damaged.
    """

    def __init__(self, greeting: int) -> None:
        self._greeting = greeting
        self.session = 0  # 0: none
        self.lost = 0  # frames that were numbered and never came
        self.stale = 0  # frames that came again, or far too late
        self._sequence = self._offset_us = self._accepted_us = 0

    def forget(self) -> None:
        self.session = 0

    def accepts(self, frame: Frame, now_us: int) -> bool:
        """`now_us`: any clock that runs in real time, modulo 2**32."""
        if not 0 <= later_us(now_us, self._accepted_us) <= _FORGET_US:
            self.forget()
        if frame.session != self.session:
            if frame.kind != self._greeting or not frame.session:
                return False
        elif not self._follows(frame, now_us):
            self.stale += 1
            return False
        else:
            self.lost += self._ahead(frame) - 1
        self.session, self._sequence = frame.session, frame.sequence
        self._offset_us, self._accepted_us = (now_us - frame.time_us) & _ALL_32, now_us
        return True

    def _ahead(self, frame: Frame) -> int:
        return (frame.sequence - self._sequence) & 0xFFFF

    def _follows(self, frame: Frame, now_us: int) -> bool:
        longer_us = later_us(now_us - frame.time_us, self._offset_us)
        return 0 < self._ahead(frame) <= _AHEAD_MOST and -_SOONER_US <= longer_us <= _LATER_US
