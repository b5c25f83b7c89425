"""Which notes a recording holds, and how well two recordings agree on them: note-F.

The judge is basic-pitch (Bittner et al., ICASSP 2022; Apache-2.0), whose ONNX model lies in its wheel. Only that file is used, with
onnxruntime; install it with `pip install --no-deps basic-pitch`, because its own dependencies are TensorFlow and librosa.

    detector = NoteDetector.open()
    note_f(detector.notes(played, 44_100), detector.notes(answer, 44_100))

Shapes: N sample at 22,050 Hz, F frame (256 samples, 86 per second), P pitch (88, A0 to C8). Runs in: evaluation.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import soxr
from numpy.typing import NDArray

from engines.train.scores import Note

RATE_HZ = 22_050
HOP_FRAMES = 256
WINDOW_FRAMES = 2 * RATE_HZ - HOP_FRAMES  # samples that the model hears at once
OVERLAP = 30  # model frames that neighbouring windows share; half of them are dropped at each end
WINDOW_HOP_FRAMES = WINDOW_FRAMES - OVERLAP * HOP_FRAMES
THRESHOLD = 0.4  # activation above which a note is held to sound
INPUT, NOTES = "serving_default_input_2:0", "StatefulPartitionedCall:1"
PITCHES = 88
LOWEST_PITCH = 21  # MIDI, of the first of them
GAP_FRAMES, LEAST_FRAMES = 4, 4  # what is one note to a transcription: pauses that it may have, and how long it is at least

Activations = NDArray[np.float32]  # (F, 88)


class NotesError(Exception):
    """The note model is missing: one line that says how to get it."""


def model_path() -> Path:
    """Where basic-pitch's wheel has put its model. The package itself is not imported."""
    spec = importlib.util.find_spec("basic_pitch")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, "saved_models", "icassp_2022", "nmp.onnx")
        if path.exists():
            return path
    raise NotesError("basic-pitch's model is missing: run `pip install --no-deps basic-pitch==0.4.0`")


def windows(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut (N,) samples at 22,050 Hz into overlapping windows (W, 43844, 1), as basic-pitch does."""
    padded = np.concatenate([np.zeros(OVERLAP // 2 * HOP_FRAMES, np.float32), audio.astype(np.float32)])
    starts = range(0, len(padded), WINDOW_HOP_FRAMES)
    rows = np.zeros((len(starts), WINDOW_FRAMES, 1), np.float32)
    for row, start in zip(rows, starts, strict=True):
        piece = padded[start : start + WINDOW_FRAMES]
        row[: len(piece), 0] = piece
    return rows


class NoteDetector:
    """Note activations of audio."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    @classmethod
    def open(cls) -> NoteDetector:
        return cls(model_path())

    def notes(self, audio: NDArray[np.float32], rate_hz: float, tuning_cents: float = 0.0) -> Activations:
        """(N,) mono samples -> activations in 0..1, (F, 88).

        The model knows semitones of concert pitch, and wavers between two of them where music lies between: what is known to be tuned
        elsewhere is heard as fast or slow as puts it there, so that F counts frames of that time.
        """
        resampled = soxr.resample(np.asarray(audio, np.float32), rate_hz * 2 ** (-tuning_cents / 1200), RATE_HZ)
        pieces = [self.session.run([NOTES], {INPUT: row[None]})[0][0] for row in windows(resampled)]
        kept = np.concatenate([piece[OVERLAP // 2 : -(OVERLAP // 2)] for piece in pieces])
        return np.asarray(kept[: len(resampled) * (RATE_HZ // HOP_FRAMES) // RATE_HZ], np.float32)


def transcribed(activations: Activations) -> list[Note]:
    """Every note that sounds, as a score: what an instrument must play that would be heard as this."""
    seconds, found = HOP_FRAMES / RATE_HZ, []
    for pitch, row in enumerate(activations.T):
        on = np.flatnonzero(row > THRESHOLD)
        for run in np.split(on, np.flatnonzero(np.diff(on) > GAP_FRAMES) + 1):
            if len(run) >= LEAST_FRAMES:
                velocity = round(40 + 70 * float(row[run].max()))
                found.append(Note(run[0] * seconds, (run[-1] - run[0] + 1) * seconds, LOWEST_PITCH + pitch, velocity))
    return sorted(found, key=lambda note: note.start_seconds)


def note_f(first: Activations, second: Activations) -> float:
    """F-measure of the notes that sound, frame by frame and pitch by pitch; 0 if neither has any.

    Both signals must be aligned: cut a known delay off the audio before its notes are detected.
    """
    frames = min(len(first), len(second))
    a, b = first[:frames] > THRESHOLD, second[:frames] > THRESHOLD
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
