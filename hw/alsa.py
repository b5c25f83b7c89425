"""A sound card through ALSA, both ways, with recovery in stages.

    an xrun (read or write returns -32)            -> both ways start again: playback full of silence, capture empty
    frames lost without a word                     -> as much silence, so that the lag stays as it was
    xruns in quick succession, an error, a stall   -> close and open again, by the card's id
    the card does not come back                    -> silence in real time while trying four times a second, then read() is False

The lag is all periods that the card queues; it is measured after each start, and one that began otherwise starts again. Read and
write never wait for ever on a dead card: they look first whether a period is there. (Closing one whose server hangs may; main
watches the progress.)

Runs in: the audio process. After opening nothing is raised; the only object allocated per period is what PCM.read() returns, for
which pyalsaaudio has no other way.
"""

from __future__ import annotations

import select
import time

from hw.alsa_library import XRUN, AlsaLibrary, Pcm, PyAlsaAudio, by_card_id, close_now, open_exactly
from hw.audio import AudioFormat, Frames, PortError, PortHealth
from hw.sample_format import Decoder, Encoder

STALL_MS = 500  # a card that gives or takes nothing for so long is opened again
REOPEN_EVERY_NS = 250_000_000
QUICK_XRUNS = 8  # so many, with fewer than CALM_PERIODS between them, and the card is opened again
CALM_PERIODS = 64
FALSE_STARTS = 3
LAG_SAMPLES = 9  # the lag is the median of so many looks at the queues


class AlsaPort:
    """An AudioPort on one ALSA device."""

    def __init__(self, device: str, format: AudioFormat, library: AlsaLibrary | None = None, patience_seconds: float = 10.0) -> None:
        self.format, self.health = format, PortHealth()
        self._library = library or PyAlsaAudio()
        self._error = self._library.error
        self._patience_ns = int(patience_seconds * 1e9)
        self._decoder = Decoder(format.sample_format, format.period_frames, format.in_channels)
        self._encoder = Encoder(format.sample_format, format.period_frames, format.out_channels)
        self._gaps = GapDetector(format.rate_hz)
        self._last_good_ns = time.monotonic_ns()
        self._tried_ns = self._quick_xruns = self._calm_periods = 0
        self._card: _Card | None = _Card(self._library, device, format, self._encoder.silence)
        self._device = by_card_id(device, self._library.cards())

    @property
    def lag_frames(self) -> int:
        """All periods that the card queues, unless it has been measured to be otherwise and will not change."""
        return self.format.periods * self.format.period_frames if self._card is None else self._card.lag_frames

    def read(self, into: Frames) -> bool:
        if self._card is None and not self._reopen():
            into.fill(0.0)
            time.sleep(self.format.period_ns / 1e9)
            return self._patient()
        assert self._card is not None
        try:
            frames, data = self._card.read()
        except self._error:
            frames, data = -1, b""
        if frames == self.format.period_frames:
            self._decoder.decode(data, into)
            self._count_good()
            return True
        into.fill(0.0)
        self._recover(xrun=frames == XRUN)
        return self._patient()

    def write(self, frames: Frames) -> None:
        if self._card is None:
            return
        data = self._encoder.encode(frames)
        try:
            if self._card.write(data) != self.format.period_frames:
                self._playback_xrun(self._card, data)
        except self._error:
            self._drop_card()

    def close(self) -> None:
        """What has been written is played to its end."""
        if self._card is not None:
            self._card.finish()
        self._drop_card()

    def _count_good(self) -> None:
        self._last_good_ns = time.monotonic_ns()
        self._calm_periods += 1
        lost = self._gaps.count(self.format.period_frames, self._last_good_ns)
        if lost:
            self.health.gaps += 1
            self.health.gap_frames += lost
            self._keep_lag(lost)

    def _keep_lag(self, lost: int) -> None:
        """What did not come in is missing in the playback queue too: left so, the next late period would run it dry."""
        try:
            if self._card is not None:
                self._card.top_up(lost)
        except self._error:
            self._drop_card()

    def _patient(self) -> bool:
        return time.monotonic_ns() - self._last_good_ns < self._patience_ns

    def _recover(self, xrun: bool) -> None:
        """One stage after a period that did not come."""
        assert self._card is not None
        self._gaps.restart()
        self.health.capture_xruns += xrun
        try:
            if xrun and not self._too_many_xruns():
                self.health.playback_xruns += self._card.is_dry()
                self._card.start_again()
                return
        except self._error:
            pass
        self._drop_card()

    def _playback_xrun(self, card: _Card, data: object) -> None:
        self.health.playback_xruns += card.has_played
        if self._too_many_xruns():
            self._drop_card()
        elif not card.refill(data):
            self._gaps.restart()

    def _too_many_xruns(self) -> bool:
        self._quick_xruns = self._quick_xruns + 1 if self._calm_periods < CALM_PERIODS else 1
        self._calm_periods = 0
        return self._quick_xruns > QUICK_XRUNS

    def _drop_card(self) -> None:
        if self._card is not None:
            self._card.close()
            self._card = None

    def _reopen(self) -> bool:
        now_ns = time.monotonic_ns()
        if now_ns - self._tried_ns < REOPEN_EVERY_NS:
            return False
        self._tried_ns, self._quick_xruns = now_ns, 0
        try:
            self._card = _Card(self._library, self._device, self.format, self._encoder.silence)
        except PortError:
            return False
        self.health.reopens += 1
        self._gaps.restart()
        return True


class _Card:
    """Both directions, open. Raises PortError while opening, afterwards only the library's error."""

    def __init__(self, library: AlsaLibrary, device: str, format: AudioFormat, silence: bytes) -> None:
        self._error, self._period, self._periods, self._silence = library.error, format.period_frames, format.periods, silence
        self._playback = open_exactly(library, device, False, format)
        try:
            self._capture = open_exactly(library, device, True, format)
        except PortError:
            close_now(self._playback, self._error)
            raise
        self._playback_poll, self._capture_poll = _Poll(self._playback, self._period), _Poll(self._capture, self._period)
        self.lag_frames = self._periods * self._period
        self._started = self.has_played = False
        self._false_starts = 0
        self._lags: list[int] = []

    def read(self) -> tuple[int, bytes]:
        """A period, or a count that is none: XRUN, or 0 for a card that gives nothing."""
        if not self._started:
            self._fill(self._periods)
            self._started = True  # capture starts with its first read; before that, a poll would wait for ever
        elif not self._capture_poll.wait():
            return 0, b""
        return self._capture.read()

    def write(self, data: object) -> int:
        """Frames that were queued, or XRUN. Nothing is, until the read that starts both ways."""
        if len(self._lags) < LAG_SAMPLES:
            self._measure_lag()
        if not self._started:
            return self._period
        if not self._playback_poll.wait():
            raise self._error("the card takes nothing")
        count = self._playback.write(data)
        self.has_played = self.has_played or count == self._period
        return count

    def refill(self, data: object) -> bool:
        """After playback ran dry: silence again, and the period that found it so. As much silence as keeps the lag: what capture
        has heard since that period counts too. A whole period of it is a backlog that would stay for good: then both ways
        start again, as they do if capture was slow to start. Whether nothing of what came in was lost."""
        heard = self._capture.avail()
        if not self.has_played and self._false_starts < FALSE_STARTS:
            self.start_again(false_start=True)
        elif not 0 <= heard < self._period:
            self.start_again()
        else:
            self._fill(self._periods - 2)
            self._playback.write(self._silence[: (self._period - heard) * len(self._silence) // self._period])
            self._playback.write(data)
        return self._started

    def top_up(self, lost: int) -> None:
        """After a gap of `lost` frames: as much silence as the lag has become shorter. A period has just been read."""
        room = self._playback.avail()
        lag_frames = self._periods * self._period - room + self._period + self._capture.avail()
        missing = min(lost, self.lag_frames - lag_frames, room)
        while missing > 0:
            self._playback.write(self._silence[: min(missing, self._period) * len(self._silence) // self._period])
            missing -= self._period

    def is_dry(self) -> bool:
        return self._playback.avail() == XRUN

    def start_again(self, false_start: bool = False) -> None:
        self._capture.drop()
        self._playback.drop()
        self._started = self.has_played = False
        self._lags.clear()
        self._false_starts = self._false_starts + 1 if false_start else 0

    def _measure_lag(self) -> None:
        """What waits in both queues, and the period in hand. The two ways start one after the other, and a turn of the card between
        makes a period more or less: then they start again, a few times; a card that insists has its own lag."""
        wanted = self._periods * self._period
        self._lags.append(wanted - self._playback.avail() + self._period + self._capture.avail())
        if len(self._lags) < LAG_SAMPLES:
            return
        lag_frames = sorted(self._lags)[LAG_SAMPLES // 2]  # the card may take its turn between two looks, but not each time
        right = abs(lag_frames - wanted) <= self._period // 2
        self.lag_frames = wanted if right else lag_frames
        if not right and self._false_starts < FALSE_STARTS:
            self.start_again(false_start=True)

    def _fill(self, periods: int) -> None:
        for _ in range(periods):
            self._playback.write(self._silence)

    def finish(self) -> None:
        """Wait until only silence is left to be played."""
        try:
            for _ in range(self._periods if self._started else 0):
                if not self._playback_poll.wait():
                    return
                self._playback.write(self._silence)
        except self._error:
            pass

    def close(self) -> None:
        close_now(self._capture, self._error)
        close_now(self._playback, self._error)


class _Poll:
    """Waits until a PCM has a period (or room for one), but not for ever, as its own read() and write() do."""

    def __init__(self, pcm: Pcm, period_frames: int) -> None:
        self._pcm, self._period = pcm, period_frames
        self._descriptors = pcm.polldescriptors()
        self._poll = select.poll()
        for fd, events in self._descriptors:
            self._poll.register(fd, events)

    def wait(self) -> bool:
        """False if nothing came for STALL_MS. An xrun or error is no reason to wait: read() or write() will tell."""
        if not 0 <= self._pcm.avail() < self._period:
            return True
        until_ns = time.monotonic_ns() + STALL_MS * 1_000_000
        while time.monotonic_ns() < until_ns:
            ready = self._poll.poll(STALL_MS)
            # Plugins wake up for reasons of their own and must be asked whether it was for us: that also takes the wake-up back.
            if ready and self._pcm.polldescriptors_revents(self._all(ready)):
                return True
            if not 0 <= self._pcm.avail() < self._period:
                return True
        return False

    def _all(self, ready: list[tuple[int, int]]) -> list[tuple[int, int]]:
        if len(ready) == len(self._descriptors):
            return ready
        found = dict(ready)
        return [(fd, found.get(fd, 0)) for fd, _ in self._descriptors]


class GapDetector:
    """Frames that a card lost without saying so: the frames counted fall behind the clock and stay there.

    Scheduling makes a read late, never early. So the least lateness within a second is the card's own, and a step of it from one
    second to the next is a gap. The drift between two clocks (up to 500 ppm) makes steps below the threshold.
    """

    WINDOW_NS = 1_000_000_000
    THRESHOLD_NS = 750_000

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self.restart()

    def restart(self) -> None:
        self._start_ns = self._frames = 0
        self._window_ends_ns = self._least_ns = 0
        self._before_ns: int | None = None

    def count(self, frames: int, now_ns: int) -> int:
        """`frames` more were read at `now_ns`. How many are found to be missing."""
        if not self._start_ns:
            self._begin(now_ns)
        self._frames += frames
        late_ns = now_ns - self._start_ns - self._frames * 1_000_000_000 // self._rate_hz
        self._least_ns = min(self._least_ns, late_ns)
        return self._end_window(now_ns) if now_ns >= self._window_ends_ns else 0

    def _begin(self, now_ns: int) -> None:
        self._start_ns, self._window_ends_ns, self._least_ns = now_ns, now_ns + self.WINDOW_NS, self.WINDOW_NS

    def _end_window(self, now_ns: int) -> int:
        step_ns = 0 if self._before_ns is None else self._least_ns - self._before_ns
        self._before_ns, self._least_ns, self._window_ends_ns = self._least_ns, self.WINDOW_NS, now_ns + self.WINDOW_NS
        return step_ns * self._rate_hz // 1_000_000_000 if step_ns > self.THRESHOLD_NS else 0
