"""Plays the simulated set: `python -m tests.gig --minutes 180 --seed 1 --out build/gig`. 0 if all was as it should be.

`--defect NAME` plants a defect in the pedal's code first (tests/gig/defects.py): the set must then fail, or its judge is worth nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.gig.machine import install  # before anything of the pedal: it shall know no other clock

REAL_SECONDS, CPU_SECONDS = time.perf_counter, time.process_time

if TYPE_CHECKING:
    from tests.gig.gig import Gig
    from tests.gig.verdict import Verdict


def play(minutes: float, seed: int, kinds: str, defect: str, folder: Path, quiet: bool) -> Verdict:
    machine = install()
    from tests.gig.gig import Gig
    from tests.gig.score import KINDS, NAMES, write_score
    from tests.gig.verdict import Verdict

    if defect:
        from tests.gig.defects import DEFECTS

        DEFECTS[defect]()
    wanted = KINDS if kinds == "all" else tuple(NAMES[name.strip()] for name in kinds.split(",") if name.strip())
    score = write_score(minutes, seed, wanted)
    with _progress(quiet) as progress:
        task = progress.add_task("playing", total=score.seconds)
        gig = Gig(machine, score, seed, folder, lambda seconds: progress.update(task, completed=min(seconds, score.seconds)))
        gig.play()
    return Verdict(gig)


def _progress(quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, disable=quiet, get_time=REAL_SECONDS, console=Console(stderr=True))


def table(verdict: Verdict, title: str) -> Table:
    shown = Table(title=title, title_justify="left", show_lines=False, expand=False)
    for column in ("", "what must hold", "what was found"):
        shown.add_column(column, overflow="fold")
    for check in verdict.checks:
        shown.add_row("[green]ok" if check.good else "[bold red]NO", check.what, check.found)
    return shown


def facts(verdict: Verdict, seed: int, wall_seconds: float, cpu_seconds: float) -> dict[str, object]:
    gig: Gig = verdict.gig
    return {
        "minutes": round(gig.score.seconds / 60, 1),
        "seed": seed,
        "good": verdict.good,
        "wall_seconds": round(wall_seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "periods": gig.tape.periods,
        "blocks": sum(life.generated + life.prefilled for life in gig.lives),
        "songs": len(gig.score.songs),
        "faults": {
            kind: sum(fault.kind.name == kind for fault in verdict.faults) for kind in sorted({f.kind.name for f in verdict.faults})
        },
        "recorded_stalls": len(gig.tape.long_waits),
        "checks": {check.what: {"good": check.good, "found": check.found} for check in verdict.checks},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--minutes", type=float, default=180.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", default="all", help="all, or names of tests/gig/score.py with commas")
    parser.add_argument("--defect", default="")
    parser.add_argument("--out", type=Path, help="a folder for the picture, the figures and the pedal's log")
    parser.add_argument("--quiet", action="store_true")
    wanted = parser.parse_args()
    began, cpu = REAL_SECONDS(), CPU_SECONDS()
    with TemporaryDirectory() as folder:
        verdict = play(wanted.minutes, wanted.seed, wanted.faults, wanted.defect, Path(folder), wanted.quiet)
    found = facts(verdict, wanted.seed, REAL_SECONDS() - began, CPU_SECONDS() - cpu)
    title = f"{found['minutes']:g} minutes, seed {wanted.seed}: {found['periods']:,} periods, {len(verdict.faults)} faults"
    if wanted.out:
        keep(verdict, title, found, wanted.out)
    if wanted.quiet:
        print(json.dumps(found))
    else:
        Console().print(table(verdict, f"{title}; {found['wall_seconds']} s, {found['cpu_seconds']} s of processor time"))
    return 0 if verdict.good else 1


def keep(verdict: Verdict, title: str, found: dict[str, object], out: Path) -> None:
    from tests.gig.picture import draw

    out.mkdir(parents=True, exist_ok=True)
    draw(verdict, title, out / "gig.png")
    (out / "gig.json").write_text(json.dumps(found, indent=1) + "\n")
    score = [f"{fault.at:10.3f} inflicted: {fault.kind.name} {fault.seconds:g}" for fault in verdict.faults]
    (out / "gig.log").write_text("\n".join(sorted([*score, *verdict.gig.lines])) + "\n")


if __name__ == "__main__":
    sys.exit(main())
