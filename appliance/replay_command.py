"""`ghostnote replay FILE`: makes recorded blocks again and says whether every bit is the same.

Exit code 0: all identical; 1: something differs; 2: it can't be replayed. Runs in: `ghostnote replay`, alone.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from appliance.flight_ring import FlightError
from appliance.replay import Flight, Outcome, Replayer, Result, Track, departures, groups, open_flight, open_for
from appliance.stats import BlockMode

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

DIFFERS = 1
SHOWN = 12  # rows of the table of what differs


def add_replay(commands: Commands, out: Console) -> None:
    """The command, for the parser of `ghostnote`."""
    one = commands.add_parser("replay", help="make recorded blocks again: identical or different, bit by bit")
    one.add_argument("file", type=Path, metavar="FILE", help="a .flight file, or the .ring file of a pedal that plays or has died")
    which = one.add_mutually_exclusive_group()
    which.add_argument("--block", type=int, metavar="N", help="only the block of that number")
    which.add_argument("--all", action="store_true", help="every block that was answered (default)")
    which.add_argument("--random", type=int, metavar="N", help="N blocks drawn at random")
    one.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw")
    one.add_argument("--slot", type=int, metavar="S", help="only what the engine in slot S was given")
    one.add_argument("--engine", default="", metavar="BUNDLE", help="where the bundle is now, if it is elsewhere")
    one.add_argument("--backend", default="", metavar="NAME", help="compute with another backend than was recorded")
    one.add_argument("--wav", type=Path, metavar="OUT", help="write what was heard (left) and what is answered now (right)")
    one.set_defaults(command=lambda arguments: replay(arguments, out))


@dataclass
class Tally:
    """What came of it."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    different: list[Result] = field(default_factory=list)  # the first of them
    largest: float = 0.0
    checkpoints: Counter[bool] = field(default_factory=Counter)
    sounds: list[Any] = field(default_factory=list)
    departures: list[str] = field(default_factory=list)
    unreachable: int = 0

    def count(self, result: Result, keep_sound: bool) -> None:
        self.outcomes[result.outcome] += 1
        self.largest = max(self.largest, result.difference)
        if result.outcome is Outcome.DIFFERS and len(self.different) < SHOWN:
            self.different.append(result)
        if keep_sound:
            self.sounds.append(np.stack([result.record.heard, result.answer], 1))


def replay(arguments: argparse.Namespace, out: Console) -> int:
    flight, tally = open_flight(arguments.file), Tally()
    tracks = {slot: track for slot, track in flight.tracks.items() if arguments.slot in (None, slot)}
    jobs = [(replayer, chosen) for track in tracks.values() for replayer, chosen in _jobs(flight, track, arguments, tally)]
    if not any(chosen for _, chosen in jobs):
        raise FlightError(f"{flight.path}: {_nothing(arguments, tracks)}")
    _describe(flight, tracks, out)
    rate = next(iter(tracks.values())).shape.sample_rate
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replaying", total=sum(len(chosen) for _, chosen in jobs))
        for replayer, chosen in jobs:
            for result in replayer.play(chosen):
                tally.count(result, arguments.wav is not None)
                progress.advance(task)
            tally.checkpoints.update(replayer.checkpoints)
    if arguments.wav:
        _write(arguments.wav, tally, rate)
    return _report(tally, rate, out)


def _jobs(flight: Flight, track: Track, arguments: argparse.Namespace, tally: Tally) -> Iterator[tuple[Replayer, list[int]]]:
    """Engines, and what each is to play again."""
    known = groups(track)
    tally.unreachable += len(track.heads()) - sum(int(np.isin(track.heads()["life"], list(lives)).sum()) for _, lives in known)
    for life, lives in known:
        engine = open_for(flight, life, arguments.engine, arguments.backend)
        tally.departures += [line for line in departures(life, engine) if line not in tally.departures]
        replayer = Replayer(track, engine, lives)
        tally.unreachable += len(replayer.heads) - len(replayer.numbers())
        yield replayer, _chosen(replayer, arguments)


def _chosen(replayer: Replayer, arguments: argparse.Namespace) -> list[int]:
    if arguments.block is not None:
        return [arguments.block] if replayer.reaches(arguments.block) else []
    if arguments.random is not None:
        answered = replayer.numbers(BlockMode.GENERATED)
        return sorted(random.Random(arguments.seed).sample(answered, min(arguments.random, len(answered))))
    return replayer.numbers()


def _nothing(arguments: argparse.Namespace, tracks: dict[int, Track]) -> str:
    numbers = [int(number) for track in tracks.values() for number in track.heads()["number"]]
    if not numbers:
        return "holds no blocks" if arguments.slot is None else f"holds no blocks of slot {arguments.slot}"
    if arguments.block is not None and arguments.block in numbers:
        return f"block {arguments.block} can't be made again: what led to it is not there any more, or was torn by a crash"
    there = f"it holds {min(numbers)} to {max(numbers)}"
    return f"has no block {arguments.block}; {there}" if arguments.block is not None else f"no block can be made again ({there})"


def _describe(flight: Flight, tracks: dict[int, Track], out: Console) -> None:
    if flight.about:
        out.print(f"saved {flight.about.saved}: {flight.about.reason}", highlight=False, markup=False, soft_wrap=True)
    for slot, track in tracks.items():
        heads = track.heads()
        if not len(heads):
            continue
        modes = Counter(int(mode) for mode in heads["mode"])
        seconds = (heads["start"][-1] - heads["start"][0] + track.shape.block_frames) / track.shape.sample_rate
        life = track.lives.get(int(heads["life"][-1]), {})
        line = f"slot {slot}: blocks {heads['number'][0]} to {heads['number'][-1]} ({seconds:.0f} s), "
        line += f"{modes[BlockMode.GENERATED]} answered, {modes[BlockMode.PREFILLED]} only heard, "
        line += f"{int(heads['reset'].sum())} resets, {len(track.checkpoints())} checkpoints; "
        line += f"engine {life.get('name', '?')} on {life.get('backend') or 'no runtime'}"
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _report(tally: Tally, rate: int, out: Console) -> int:
    if tally.different:
        table = Table("block", "at", "steps", "largest difference", title="what differs")
        for result in tally.different:
            head = result.record.head
            table.add_row(str(head["number"]), f"{head['start'] / rate:.1f} s", str(head["ledger"]["steps"]), f"{result.difference:.1e}")
        out.print(table)
    outcomes, met = tally.outcomes, tally.checkpoints
    for line in tally.departures:
        out.print(f"not what computed then: {line}", highlight=False, markup=False, soft_wrap=True)
    if tally.unreachable:
        lost = f"{tally.unreachable} blocks can't be made again: what led to them is not there any more"
        out.print(lost, highlight=False, soft_wrap=True)
    same = f"{outcomes[Outcome.IDENTICAL]} blocks identical to the last bit"
    if outcomes[Outcome.HEARD]:
        same += f", {outcomes[Outcome.HEARD]} only heard"
    if sum(met.values()):
        same += f", {met[True]} of {met[True] + met[False]} checkpoints met"
    if not outcomes[Outcome.DIFFERS] and not met[False]:
        out.print(f"[bold green]identical[/]: {same}", highlight=False, soft_wrap=True)
        return 0
    because = "; this is not what computed then, so that may be expected" if tally.departures else ""
    first = f", first in block {tally.different[0].record.head['number']}" if tally.different else ""
    worst = f"{outcomes[Outcome.DIFFERS]} blocks differ{first} (at most by {tally.largest:.1e})"
    out.print(f"[bold red]different[/]: {worst}; {same}{because}", highlight=False, soft_wrap=True)
    return DIFFERS


def _write(path: Path, tally: Tally, rate: int) -> None:
    from appliance.render import write_audio

    write_audio(path, np.concatenate(tally.sounds), rate)
