"""pyalsaaudio behind a small face: opening a PCM that is exactly what was asked for, and saying in one line why not.

pyalsaaudio 0.11 silently keeps whatever ALSA chose (asked for S24_3LE, it may run at U8), so every parameter is read back.

Runs in: the audio process, while a port opens or recovers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, Protocol

from hw.audio import AudioFormat, PortError

XRUN = -32  # -EPIPE: what read(), write() and avail() return when samples were lost

_ALSA_NAMES = {"S16": "S16_LE", "S24_3LE": "S24_3LE", "S32": "S32_LE", "FLOAT": "FLOAT_LE"}
_OUR_NAMES = {alsa: ours for ours, alsa in _ALSA_NAMES.items()}


class Pcm(Protocol):
    """One direction of a card, as pyalsaaudio gives it; what fails otherwise than by XRUN raises `AlsaLibrary.error`."""

    def read(self) -> tuple[int, bytes]: ...
    def write(self, data: Any) -> int: ...
    def avail(self) -> int: ...
    def drop(self) -> object: ...
    def close(self) -> object: ...
    def info(self) -> Mapping[str, Any]: ...
    def polldescriptors(self) -> list[tuple[int, int]]: ...
    def polldescriptors_revents(self, descriptors: list[tuple[int, int]]) -> int: ...


class AlsaLibrary(Protocol):
    """What a port needs of ALSA."""

    error: type[Exception]

    def open(self, device: str, capture: bool, format: AudioFormat) -> Pcm: ...
    def cards(self) -> dict[int, str]: ...


class PyAlsaAudio:
    """The real one. Raises PortError where the package is missing."""

    def __init__(self) -> None:
        try:
            import alsaaudio
        except ImportError as error:
            raise PortError("alsa: ports need pyalsaaudio: apt install libasound2-dev, then pip install 'ghostnote[device]'") from error
        self._alsa = alsaaudio
        self.error: type[Exception] = alsaaudio.ALSAAudioError
        _silence_libasound()

    def open(self, device: str, capture: bool, format: AudioFormat) -> Pcm:
        pcm: Pcm = self._alsa.PCM(
            type=self._alsa.PCM_CAPTURE if capture else self._alsa.PCM_PLAYBACK,
            device=device,
            rate=format.rate_hz,
            channels=format.in_channels if capture else format.out_channels,
            format=getattr(self._alsa, f"PCM_FORMAT_{_ALSA_NAMES[format.sample_format]}"),
            periodsize=format.period_frames,
            periods=format.periods,
        )
        return pcm

    def cards(self) -> dict[int, str]:
        """Index and id of every sound card."""
        try:
            return dict(zip(self._alsa.card_indexes(), self._alsa.cards(), strict=False))
        except self.error:  # a card that is just being unplugged
            return {}


def _silence_libasound() -> None:
    """libasound explains each failure on stderr in lines of its own; a port says it in one. The handler has to be C code, as it
    may be called from any thread: getpid() ignores its arguments and does nothing, which is all that is needed."""
    try:
        libasound = ctypes.CDLL("libasound.so.2")
    except OSError:
        return
    libasound.snd_lib_error_set_handler(ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p))


def open_exactly(library: AlsaLibrary, device: str, capture: bool, format: AudioFormat) -> Pcm:
    """Raises PortError if the card is missing or busy, or would run otherwise than asked."""
    way = "capture" if capture else "playback"
    try:
        pcm = library.open(device, capture, format)
    except library.error as error:
        raise PortError(_why_not(library, device, way, str(error))) from error
    altered = _altered(pcm.info(), format, format.in_channels if capture else format.out_channels)
    if altered:
        close_now(pcm, library.error)
        raise PortError(f"alsa:{device} ({way}) can't do as asked: {', '.join(altered)}; {_instead(device)}")
    return pcm


def close_now(pcm: Pcm, error: type[Exception]) -> None:
    """Dropped first: closing a playback waits until all has been played, which on a dead card is never."""
    for step in (pcm.drop, pcm.close):
        try:
            step()
        except error:
            pass


def _instead(device: str) -> str:
    """plughw:X converts for hw:X, plug:NAME for NAME; what converts already can only be asked for something else."""
    if device.startswith("plug"):
        return "set what it gives"
    return f"set what it gives, or let ALSA convert: alsa:plug{'' if device.startswith('hw:') else ':'}{device}"


def _why_not(library: AlsaLibrary, device: str, way: str, reason: str) -> str:
    reason = reason.removesuffix(f" [{device}]")
    if "busy" in reason:
        return f"alsa:{device} ({way}) is in use by another program: stop that one (`fuser -v /dev/snd/*` names it)"
    cards = library.cards()
    known = "use " + " or ".join(f"alsa:hw:{name}" for name in cards.values()) if cards else "this machine has none: plug one in"
    return f"alsa:{device} ({way}) can't be opened ({reason}): no such card answers; {known}, or use file:PATH"


def _altered(given: Mapping[str, Any], asked: AudioFormat, channels: int) -> list[str]:
    """Each parameter that ALSA changed, in words; empty if it runs exactly as asked."""
    format_name = str(given["format_name"])
    rows = (
        ("sample_format", asked.sample_format, _OUR_NAMES.get(format_name, format_name)),
        ("rate_hz", asked.rate_hz, given["rate"]),
        ("channels", channels, given["channels"]),
        ("period_frames", asked.period_frames, given["period_size"]),
        ("buffer of", asked.period_frames * asked.periods, given["buffer_size"]),
        ("access", "RW_INTERLEAVED", given["access_type"]),
    )
    return [f"{name} {want} (it gives {have})" for name, want, have in rows if want != have]


def by_card_id(device: str, cards: Mapping[int, str]) -> str:
    """The same device named by its card's id: a card that is unplugged and plugged in again may get another index."""
    kind, colon, rest = device.partition(":")
    index, comma, tail = rest.partition(",")
    if colon and index.isdecimal() and int(index) in cards:
        return f"{kind}:{cards[int(index)]}{comma}{tail}"
    return device
