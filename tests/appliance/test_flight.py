"""The flight recorder: every recorded block is made again to the last bit, whatever befell worker, ring and file."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.cli import main
from appliance.controls import Control
from appliance.flight import CHECKPOINT_BLOCKS, FlightRecorder, Played, shape_for
from appliance.flight_file import About, SavedFlight, gathered, spread
from appliance.flight_ring import HEAD, FlightError, FlightRing, FlightSettings
from appliance.flight_save import Job, make_room, save
from appliance.replay import Outcome, Replayer, groups, open_flight, open_for
from appliance.stats import BlockMode
from engines.bundle import open_engine
from engines.engine import EngineControls
from engines.prompts import StoredPrompt, write_prompt
from tests.appliance.flight_rig import Pedal

REPO = Path(__file__).parents[2]


def saved(ring: Path, target: Path) -> Path:
    save(Job((str(ring),), str(target), 8, 500, About("2026-01-01T00:00:00Z", "a test", {"health": "good"}, ("a line",))))
    return target


@pytest.fixture(scope="module", name="reference")
def _reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, float]]:
    """A session with the shipped engine, and what recording took: changes of controls, late blocks, a reset, a worker's death."""
    path = tmp_path_factory.mktemp("flight") / "flight-0.ring"
    pedal = Pedal(path, "reference")
    pedal.play(80, 1)
    pedal.lose_the_thread()
    pedal.play(25, 2)
    pedal.start_worker()
    pedal.play(25, 3)
    blocks = FlightRing.open(path).newest() + 1
    yield path, pedal.keep_seconds / (blocks * pedal.block_frames / 44_100)
    pedal.close()


@pytest.fixture(name="echo")
def _echo(tmp_path: Path) -> Path:
    """A saved flight of the engine that gives back what it hears."""
    pedal = Pedal(tmp_path / "x.ring", "echo")
    pedal.play(40)
    pedal.close()
    return saved(pedal.path, tmp_path / "x.flight")


def test_a_hundred_random_blocks_are_made_again_to_the_last_bit(reference: tuple[Path, float]) -> None:
    ring = FlightRing.open(reference[0])
    heads = ring.heads()
    assert set(heads["mode"]) == {BlockMode.GENERATED, BlockMode.PREFILLED} and heads["reset"].sum() == 3
    assert len(np.unique(heads["controls"])) > 18
    ((life, lives),) = groups(ring)
    replayer = Replayer(ring, open_for(open_flight(reference[0]), life), lives)
    assert replayer.numbers() == [int(number) for number in heads["number"]]
    results = list(replayer.play(random.Random(0).sample(replayer.numbers(BlockMode.GENERATED), 100)))
    assert len(results) == 100 and {result.outcome for result in results} == {Outcome.IDENTICAL}
    assert replayer.checkpoints == {True: 1, False: 0}


def test_recording_takes_less_than_a_hundredth_of_a_block(reference: tuple[Path, float]) -> None:
    """Processor time over the time that a block sounds."""
    assert reference[1] < 0.008


def test_a_saved_flight_says_the_same_as_its_ring(reference: tuple[Path, float], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = saved(reference[0], tmp_path / "x.flight")
    ring, track = FlightRing.open(reference[0]), SavedFlight(path).tracks[0]
    heads = ring.heads()
    assert np.array_equal(heads, track.heads()) and ring.checkpoints() == track.checkpoints()
    for number in (0, 31, 32, 81, int(heads["number"][-1])):
        kept, again = ring.record(number), track.record(number)
        assert kept and again and kept.heard.tobytes() == again.heard.tobytes() and np.array_equal(kept.answer, again.answer)
    assert all(ring.state(after) == track.state(after) for after in ring.checkpoints())
    assert main(["replay", str(path), "--random", "5", "--seed", "3", "--wav", str(tmp_path / "x.wav")]) == 0
    said = capfd.readouterr().out
    assert "identical: 5 blocks identical to the last bit" in said and "a test" in said and "3 resets" in said
    assert (tmp_path / "x.wav").stat().st_size > 5 * 16_384 * 2 * 3


def test_other_bits_are_found(echo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A flight whose record says that another answer was given."""
    track = SavedFlight(echo).tracks[0]
    heads = track.heads().copy()
    place = int(np.flatnonzero(heads["mode"] == BlockMode.GENERATED)[3])
    heads["hash"][place, 0] ^= 1
    changed = rewritten(echo, tmp_path / "y.flight", {"0/records.npy": heads})
    assert main(["replay", str(changed), "--block", str(place)]) == 1
    assert f"1 blocks differ, first in block {place} (at most by 3.1e-05)" in " ".join(capfd.readouterr().out.split())


def test_another_processor_is_named_and_nothing_claimed(echo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = facts(echo)
    for life in text["tracks"][0]["lives"]:
        life["cpu"] = "Another 9000"
    changed = rewritten(echo, tmp_path / "y.flight", {"flight.json": text})
    assert main(["replay", str(changed), "--random", "1"]) == 0
    assert "not what computed then: cpu: Another 9000 then" in capfd.readouterr().out


def test_another_engine_is_one_line(echo: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = facts(echo)
    text["tracks"][0]["lives"][0]["digest"] = "00" * 32
    changed = rewritten(echo, tmp_path / "y.flight", {"flight.json": text})
    assert main(["replay", str(changed)]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "but echo with digest 0000000000000000 was recorded; name the right bundle with --engine" in line


def facts(path: Path) -> dict:  # type: ignore[type-arg]
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("flight.json"))


def rewritten(path: Path, target: Path, changes: dict[str, object]) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            with new.open(name, "w") as file:
                change = changes.get(name)
                if isinstance(change, np.ndarray):
                    np.save(file, change)
                else:
                    file.write(json.dumps(change).encode() if change else old.read(name))
    return target


def test_both_slots_are_in_one_flight(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rings = [tmp_path / f"flight-{slot}.ring" for slot in (0, 1)]
    for blocks, ring in zip((20, 30), rings, strict=True):
        pedal = Pedal(ring, "echo")
        pedal.play(blocks)
        pedal.close()
    assert save(Job(tuple(map(str, rings)), str(tmp_path / "x.flight"), 8, 500, About("now", "a test"))) == 50
    assert main(["replay", str(tmp_path / "x.flight")]) == 0
    assert "slot 0: blocks 0 to 19" in (said := capfd.readouterr().out) and "slot 1: blocks 0 to 29" in said
    assert main(["replay", str(tmp_path / "x.flight"), "--slot", "1", "--block", "25"]) == 0


def test_words_of_the_players_own_travel_with_the_flight(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, rng = tmp_path / "prompts", np.random.default_rng(0)
    states = rng.standard_normal((1, 16, 384)).astype(np.float16)
    written = write_prompt(folder, StoredPrompt("a glass harp under water", states, states.mean(1)))
    pedal = Pedal(tmp_path / "x.ring", "reference", prompts=str(folder))
    words = pedal.engine.spec.prompts
    assert words[-1] == "a glass harp under water"
    for number in range(4):
        pedal.controls.set(Control.PROMPT, len(words) - 1)
        pedal.hear(np.full(pedal.block_frames, 0.01 * number, np.float32))
        pedal.work()
    pedal.close()
    save(Job((str(pedal.path),), str(tmp_path / "x.flight"), 8, 500, About("now", "a test"), prompts=str(folder)))
    written.unlink()
    assert main(["replay", str(tmp_path / "x.flight")]) == 0
    assert main(["replay", str(pedal.path)]) == 2
    assert "the player's own prompts are others now; replay a saved flight" in capfd.readouterr().err


# The ring


def test_only_the_last_minutes_are_kept_and_all_of_them_can_be_made_again(tmp_path: Path) -> None:
    pedal = Pedal(tmp_path / "x.ring", "echo", minutes=0.2)
    pedal.play(300)
    ring = FlightRing.open(pedal.path)
    heads = ring.heads()
    assert len(heads) == ring.shape.records == 33 + CHECKPOINT_BLOCKS and heads["number"][-1] == ring.newest() == 299
    assert list(np.diff(heads["start"])) == [pedal.block_frames] * (len(heads) - 1)
    replayer = Replayer(ring, open_engine("echo"))
    assert len(replayer.numbers()) >= 33 and replayer.numbers()[-1] == 299
    assert {result.outcome for result in replayer.play(replayer.numbers())} == {Outcome.IDENTICAL, Outcome.HEARD}
    assert pedal.path.stat().st_size == ring.shape.layout()[-1]
    pedal.close()


def test_ten_minutes_of_the_shipped_engine_are_as_large_as_the_docs_say() -> None:
    shape = shape_for(open_engine("reference"), 10)
    assert 1.3e6 < shape.state_bytes < 1.8e6
    assert 190e6 < shape.layout()[-1] < 225e6


def test_a_new_worker_goes_on_in_the_same_ring(tmp_path: Path) -> None:
    pedal = Pedal(tmp_path / "x.ring", "echo")
    pedal.play(10)
    pedal.start_worker()
    pedal.play(5)
    heads = FlightRing.open(pedal.path).heads()
    assert list(heads["number"]) == list(range(len(heads))) and set(heads["life"]) == {0, 1}
    first_of_second = heads[heads["life"] == 1][0]
    assert first_of_second["reset"] and first_of_second["mode"] == BlockMode.PREFILLED  # what was answered before is only heard
    pedal.close()


def test_an_engine_with_another_state_begins_anew(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "x.ring", os.O_RDWR | os.O_CREAT)
    engine = open_engine("echo")
    row = np.zeros(1, HEAD)["ledger"][0]
    for minutes, kept in ((0.1, 1), (0.1, 2), (0.2, 1)):
        recorder = FlightRecorder.open(FlightSettings(fd, minutes), engine, Played("echo"))
        recorder.reset(0)
        recorder.generate(np.zeros(16_384, np.float32), EngineControls())
        recorder.keep(0, row)
        assert len(FlightRing.open(tmp_path / "x.ring").heads()) == kept
    os.close(fd)


def test_a_torn_record_is_left_out_and_what_follows_it_until_the_next_checkpoint(tmp_path: Path) -> None:
    pedal = Pedal(tmp_path / "x.ring", "echo")
    pedal.play(2 * CHECKPOINT_BLOCKS)
    pedal.close()
    shape = FlightRing.open(pedal.path).shape
    with pedal.path.open("r+b") as file:
        file.seek(shape.layout()[1] + 4 * shape.block_frames * 10 + 77)  # within what block 10 heard
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    replayer = Replayer(FlightRing.open(pedal.path), open_engine("echo"))
    assert 10 not in replayer.heads["number"] and len(replayer.heads) == 2 * CHECKPOINT_BLOCKS - 1
    assert [number for number in range(2 * CHECKPOINT_BLOCKS) if not replayer.reaches(number)] == list(range(10, CHECKPOINT_BLOCKS))


WRITER = """
import os, sys, numpy as np
from appliance.flight import FlightRecorder, Played
from appliance.flight_ring import HEAD, FlightSettings
from engines.bundle import open_engine
from engines.engine import EngineControls
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
recorder = FlightRecorder.open(FlightSettings(fd, 0.1), open_engine("echo"), Played("echo"))
recorder.reset(0)
print("ready", flush=True)
for number in range(1 << 30):
    recorder.generate(np.full(16_384, number, np.float32), EngineControls())
    recorder.keep(number * 16_384, np.zeros(1, HEAD)["ledger"][0])
"""


def test_a_worker_killed_while_it_writes_leaves_at_most_one_record_torn(tmp_path: Path) -> None:
    path, moments = tmp_path / "x.ring", random.Random(5)
    for _ in range(4):
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout and writer.stdout.readline() == "ready\n"
            time.sleep(0.1 + 0.1 * moments.random())
            writer.kill()
        ring = FlightRing.open(path)
        numbers = ring.heads()["number"]
        assert len(numbers) >= 1 and len(numbers) >= min(ring.newest() + 1, ring.shape.records) - 1
        assert all((record := ring.record(int(number))) and np.ptp(record.heard) == 0 for number in numbers)


def test_no_room_is_said_once_and_the_engine_plays_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pedal = Pedal(tmp_path / "x.ring", "echo")
    capfd.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        pedal.minutes = 2.0  # another shape: the ring begins anew
        pedal.start_worker()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    pedal.play(3)
    assert capfd.readouterr().out.startswith("worker: no flight is recorded (File too large)")
    pedal.close()


# Files that are no flights


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_cut_file_is_one_line(echo: Path, tmp_path: Path, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (echo, tmp_path / "x.ring"):
        cut = tmp_path / f"cut{path.suffix}"
        with path.open("rb") as file:
            cut.write_bytes(file.read(int(share * path.stat().st_size)))
        assert main(["replay", str(cut)]) == 2
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert str(cut) in line and "cut short" in line


def test_a_damaged_piece_is_one_line(echo: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(echo) as archive:
        at = archive.getinfo("0/heard/0").header_offset
    with echo.open("r+b") as file:
        file.seek(at + 5_000)
        file.write(b"damaged")
    assert main(["replay", str(echo), "--block", "3"]) == 2
    assert "is cut short or damaged" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--block", "9999"], "has no block 9999; it holds 0 to 39"), (["--slot", "1"], "holds no blocks of slot 1")],
)
def test_what_is_not_there_is_one_line(echo: Path, arguments: list[str], says: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(echo), *arguments]) == 2
    assert says in capfd.readouterr().err


def test_other_files_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.flight").write_bytes(b"no flight at all, but long enough to look into")
    for path in (tmp_path / "x.flight", tmp_path / "none.flight"):
        assert main(["replay", str(path)]) == 2
        assert len(capfd.readouterr().err.strip().splitlines()) == 1
    (tmp_path / "empty.ring").write_bytes(bytes(8192))
    with pytest.raises(FlightError, match="holds no blocks yet"):
        open_flight(tmp_path / "empty.ring")


# Saving


def test_nothing_to_save_leaves_no_file(tmp_path: Path) -> None:
    pedal = Pedal(tmp_path / "x.ring", "echo")
    with pytest.raises(FlightError, match="nothing to save"):
        saved(pedal.path, tmp_path / "flights" / "x.flight")
    assert not list((tmp_path / "flights").iterdir())
    pedal.close()


def test_the_oldest_flights_go(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "b", "c", "oldest")):
        (tmp_path / f"{name}.flight").write_bytes(bytes(1000))
        os.utime(tmp_path / f"{name}.flight", (10_000 - age, 10_000 - age))
    make_room(tmp_path / "newest.flight", 3, 1)
    assert {path.stem for path in tmp_path.iterdir()} == {"newest", "b", "c"}
    make_room(tmp_path / "newest.flight", 3, 0.0021)
    assert {path.stem for path in tmp_path.iterdir()} == {"newest", "b"}
    make_room(tmp_path / "newest.flight", 3, 0.0001)
    assert {path.stem for path in tmp_path.iterdir()} == {"newest"}


def test_spread_bytes_come_back() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 7)).astype(np.float32)
    assert gathered(spread(rows), np.float32, 7).tobytes() == rows.tobytes()
