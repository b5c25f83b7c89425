"""Whether the set was as it should be: every fault that was inflicted is found where it should be, and nothing else is.

The rules for what a fault may excuse are in tests.gig.score, in seconds: how long the amp may be without sound (a card that is away plays
nothing), and how long the plain delay may stand in for the engine. Beside the faults of the score there are those that were recorded:
one period in some tens of thousands took longer than the card's queue. Whatever else is missed, counted, silent or said fails the set.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass

from tests.gig.gig import Gig, Life
from tests.gig.score import CARD, ENGINE, NAMES, STARVED, SWITCHES, THERMAL, Fault

RECORDED_STALL_SECONDS = 0.15  # silence that one may cost
BEGIN_SECONDS = 9.0  # from the start of a pedal until its engine must be heard
MOST_GROWN_MB = 20.0  # the notes that the set takes of itself among it
SETTLED = 0.2  # of the set: from here on memory is flat
CLOSE_MS = 20.0  # a governor that keeps its reserve never comes so near
CALM_SECONDS = 60.0  # after the heat: by then the player's steps are back


@dataclass(frozen=True)
class Check:
    what: str
    good: bool
    found: str


class Verdict:
    """`checks` has a row per rule."""

    def __init__(self, gig: Gig) -> None:
        self.gig, self.faults = gig, [fault for fault in gig.score.faults if fault.at < gig.score.seconds]
        self._stalls = [(ns - gig.began_ns) / 1e9 for ns in gig.tape.long_waits]
        self._slow = [(ns - gig.began_ns) / 1e9 for ns in gig.load.outliers]
        self.checks = [
            self._samples(),
            self._holes(),
            self._misses(),
            self._labels(),
            self._counted(),
            self._counters(),
            self._restarts(),
            self._engine_heard(),
            self._right_engine(),
            self._switched(),
            self._governor(),
            self._state(),
            self._memory(),
            self._crashes(),
        ]

    @property
    def good(self) -> bool:
        return all(check.good for check in self.checks)

    def count(self, *names: str) -> int:
        return sum(fault.kind.name in names for fault in self.faults)

    # What may excuse what

    def _covered(self, at: float, before: float = 0.1) -> list[Fault]:
        return [fault for fault in self.faults if fault.at - before <= at <= fault.until]

    def _stalled(self, at: float, seconds: float) -> bool:
        return any(-0.1 <= at - stall <= seconds for stall in self._stalls)

    def _hopeless(self, at: float, seconds: float) -> bool:
        """A block was drawn that takes too long whatever is shed."""
        return any(-0.1 <= at - slow <= seconds for slow in self._slow)

    def _drawn(self, at: float) -> bool:
        """What is missed here comes of the recordings, not of the score."""
        return self._stalled(at, 3) or self._hopeless(at, 3)

    def _starting(self, at: float) -> bool:
        return any(-1.5 <= at - life.began <= BEGIN_SECONDS for life in self.gig.lives)

    def _excused(self, at: float) -> bool:
        return (
            any(fault.hurts for fault in self._covered(at, 2.0)) or self._stalled(at, 6.0) or self._hopeless(at, 9.0) or self._starting(at)
        )

    # The rules

    def _samples(self) -> Check:
        found = self.gig.judge.findings
        text = f"{found.due_dry + found.due_wet:,} due; {found.silent} silent, {found.clicks} clicks, "
        text += f"{found.wrong_out + found.wrong_bus + found.wrong_send} otherwise wrong of {found.heard:,}"
        wrong = found.faults or self.gig.tape.not_ours or not found.due_dry or not found.due_wet
        return Check("every sample that is due is heard, without a click", not wrong, "; ".join([text, *found.examples]))

    def _holes(self) -> Check:
        """The amp has nothing to play only while it can't be helped."""
        holes = [((ns - self.gig.began_ns) / 1e9, frames / 44_100) for ns, frames in self.gig.tape.holes]
        bad = [(at, seconds) for at, seconds in holes if not self._hole_excused(at, at + seconds)]
        text = f"{len(holes)} holes, {sum(seconds for _, seconds in holes):.2f} s in all"
        return Check("the amp is without sound only while card or audio process are away", not bad, text + _some(bad))

    def _hole_excused(self, begin: float, end: float) -> bool:
        by_fault = any(fault.at - 0.1 <= begin and end <= fault.silent_until + 0.1 for fault in self.faults)
        return by_fault or any(stall - 0.1 <= begin and end <= stall + RECORDED_STALL_SECONDS for stall in self._stalls)

    def _misses(self) -> Check:
        """Beside the faults of the score there are those that were drawn from the recordings."""
        free = [miss for miss in self.gig.misses if not self._drawn(miss.at)]
        bad = [(round(miss.at, 2), miss.cause) for miss in free if not any(fault.kind.labels for fault in self._covered(miss.at))]
        return Check("nothing is missed without a fault", not bad, f"{len(self.gig.misses)} missed" + _some(bad))

    def _labels(self) -> Check:
        bad = []
        for miss in self.gig.misses:
            labels = {label for fault in self._covered(miss.at) for label in fault.kind.labels}
            labels |= {CARD, STARVED} if self._stalled(miss.at, 3) else set()
            labels |= {ENGINE, STARVED, THERMAL} if self._hopeless(miss.at, 3) else set()
            if labels and miss.cause not in labels:
                bad.append((round(miss.at, 2), miss.cause, [fault.kind.name for fault in self._covered(miss.at)]))
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(Tally(miss.cause for miss in self.gig.misses).items()))
        return Check("what is missed is called by its name", not bad, causes + _some(bad))

    def _counted(self) -> Check:
        must = [fault for fault in self.faults if fault.kind.missed]
        bad = [
            f"{fault.kind.name} at {fault.at:.1f}" for fault in must if not any(fault in self._covered(miss.at) for miss in self.gig.misses)
        ]
        return Check("every fault that must be seen is", not bad, f"{len(must)} of {len(self.faults)} faults must" + _some(bad))

    def _counters(self) -> Check:
        gig = self.gig
        bad = [text for life in gig.lives for text in _contradictions(life)]
        told = sum(life.counters["CAPTURE_XRUNS"] for life in gig.lives)
        if told != gig.card.xruns[True]:
            bad.append(f"{gig.card.xruns[True]} xruns of capture, {told} counted")
        opened = sum(life.counters["STARTS"] + life.counters["REOPENS"] for life in gig.lives)
        if opened != gig.card.opened:
            bad.append(f"the card was opened {gig.card.opened} times, {opened} are counted")
        bad += [f"{name} + {more} at {at:.0f} s" for at, name, more in gig.counted if not self._excused(at)]
        return Check("counters are true, and stand still without a fault", not bad, f"{len(gig.lives)} lives" + _some(bad))

    def _restarts(self) -> Check:
        lives = self.gig.lives
        pairs = (
            ("main", len(lives) - 1, self.count("main killed")),
            ("audio", sum(life.audio_restarts for life in lives), self.count("audio killed", "audio hangs")),
            ("engine", sum(life.engine_restarts for life in lives), self.count("engine killed", "engine hangs")),
        )
        bad = [f"{name}: {have} for {want} faults" for name, have, want in pairs if have != want]
        return Check("what died came back, and nothing else", not bad, ", ".join(f"{name} {have}" for name, have, _ in pairs) + _some(bad))

    def _engine_heard(self) -> Check:
        heard = self.gig.track.heard
        bad = [at for at, _, plain, _ in heard if plain > 0 and not self._excused(at)]
        shares = [sum(row[n] for row in heard) / max(1, len(heard)) for n in (1, 2)]
        text = f"engine {shares[0]:.1%} of the time, plain delay {shares[1]:.1%}, else the guitar rests"
        return Check("the engine is heard unless a fault keeps it", not bad and shares[0] > 0.5, text + _some(bad))

    def _right_engine(self) -> Check:
        bad = [(round(at, 1), periods) for at, periods in self.gig.strange if not self._excused(at)]
        return Check("it is the engine, prompt and morph that were asked for", not bad, f"{self.gig.known} periods were known" + _some(bad))

    def _switched(self) -> Check:
        """Each takeover ends as it must, and the engine that does not take over leaves the other one playing."""
        wanted = [(fault.kind.name == "engine switch", fault.at) for fault in self.faults if fault.kind.name in SWITCHES]
        outcomes = {at: (outcome, why) for at, outcome, why in self.gig.switches}
        bad = [
            f"at {at:.0f} s: {outcomes.get(at, 'not at all')}"
            for good, at in wanted
            if outcomes.get(at, ("", ""))[0] != ("done" if good else "failed")
        ]
        done = sum(good for good, _ in wanted)
        return Check(
            "engines take over, or leave the other one playing", not bad, f"{done} took over, {len(wanted) - done} could not" + _some(bad)
        )

    def _governor(self) -> Check:
        """In the heat steps are shed before a block is late, and afterwards they come back."""
        bad = []
        for fault in self.faults:
            if fault.kind is NAMES["heat"]:
                limits = list(self._limits(fault.at, fault.at + fault.seconds + 1))
                if not any(limits) and self._least_slack_ms(fault) < CLOSE_MS:  # with a long delay there is time enough
                    bad.append(f"nothing shed at {fault.at:.0f} s")
                late = [miss for miss in self.gig.misses if fault.at < miss.at < fault.until and not self._drawn(miss.at)]
                bad += [f"{len(late)} late at {fault.at:.0f} s"] if late else []
                after = fault.at + fault.seconds + CALM_SECONDS
                if after < self.gig.score.seconds and 0 not in self._limits(fault.at + fault.seconds, after):
                    bad.append(f"still shed {CALM_SECONDS:.0f} s after {fault.at:.0f} s")
        shed = sum(life.worker["SHED"] for life in self.gig.lives)
        return Check(
            "heat sheds steps, not blocks", not bad, f"{self.count('heat')} times hot, {shed} blocks with fewer steps" + _some(bad)
        )

    def _least_slack_ms(self, fault: Fault) -> float:
        return min((ms for at, ms in self.gig.track.slack_ms if fault.at < at <= fault.at + fault.seconds), default=0.0)

    def _limits(self, begin: float, end: float) -> Iterator[int]:
        before = 0
        for at, limit in self.gig.track.limit:
            if at < begin:
                before = limit
            elif at <= end:
                yield limit
        yield before

    def _state(self) -> Check:
        bad = self.gig.forgotten
        return Check("a pedal that died sounds as before", not bad, f"{self.gig.remembered} times" + _some(bad))

    def _memory(self) -> Check:
        memory = [row for row in self.gig.track.memory if row[0] > SETTLED * self.gig.score.seconds]
        if len(memory) < 2:
            return Check("memory and file descriptors stay flat", True, "too short to tell")
        grown, most = memory[-1][1] - memory[0][1], max(row[2] for row in memory) - memory[0][2]
        text = f"{grown:+.1f} MB, {memory[-1][2] - memory[0][2]:+d} descriptors (at most {most:+d})"
        return Check("memory and file descriptors stay flat", grown <= MOST_GROWN_MB and memory[-1][2] - memory[0][2] <= 4, text)

    def _crashes(self) -> Check:
        crashes = self.gig.machine.crashes
        return Check("no process fails by itself", not crashes, f"{len(crashes)} did" + "".join(f"\n{text}" for text in crashes[:2]))


def _contradictions(life: Life) -> Iterator[str]:
    counters, worker = life.counters, life.worker
    least = life.periods - life.audio_restarts - 1  # whoever is killed between a period and its count has played one more
    pairs = {
        "PERIODS": (counters["PERIODS"], min(max(counters["PERIODS"], least), life.periods)),
        "POSITION": (counters["POSITION"], min(max(counters["POSITION"], 128 * counters["PERIODS"]), 128 * life.periods)),
        "SILENT_FRAMES": (counters["SILENT_FRAMES"], 0),
        "RESTING_FRAMES": (counters["RESTING_FRAMES"], 0),
        "STARTS": (counters["STARTS"], 1 + life.audio_restarts),
        "RESETS": (worker["RESETS"], 0),
    }
    if not life.switches:  # what an engine answered in the dark is not counted
        pairs |= {"GENERATED": (worker["GENERATED"], life.generated), "PREFILLED": (worker["PREFILLED"], life.prefilled)}
    for name, (told, true) in pairs.items():
        if told != true:
            yield f"{name} {told} is {true} (from {life.began:.0f} s)"


def _some(bad: list[object] | list[str] | list[float] | list[tuple[object, ...]]) -> str:  # type: ignore[type-arg]
    return f"; NOT so: {len(bad)}, such as {', '.join(map(str, bad[:4]))}" if bad else ""
