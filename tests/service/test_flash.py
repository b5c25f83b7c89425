"""The whole path of an engine in a container with a real systemd: flash, certify, activate, on trial, good; and each way to be bad.

A guitar plays all the time. Bad engines are refused, or go by themselves, and the one that plays plays on. What takes its time here are the
soaks: they are short, without a disturbance, and the engine has more time for a block than it would be given on stage (BUDGET_MS), because
the machine that runs tests has other things to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.service import made_engines
from tests.service.conftest import Pedal, a_board, wait_for
from tests.service.container import may_raise_limits
from tests.service.hearing import status, undisturbed

pytestmark = pytest.mark.nspawn

BUDGET_MS = 600
HEALTHY_MINUTES, NEVER_MINUTES, LATE_BLOCKS = 0.15, 600.0, 3
SOAK_MINUTES = 0.25
PATIENCE_SECONDS = 90.0
STORE = "\n[store]\nhealthy_minutes = {minutes}\nlate_blocks = {late}\n"
SHIPPED = "reference"
LAST_SWITCH, LAST_SWITCH_LIGHT, STATUS_LIGHT = 3, 5, 0
ENGINES = {
    "dawn": None,
    "dusk": None,
    "slow": made_engines.slow,
    "fragile": made_engines.fragile,
    "golden": made_engines.wrong_golden,
    "huge": made_engines.huge,
}
# What becomes of root's rights in a container that can't raise limits: the service has them as capabilities (conftest.RIGHTS), and a
# certificate is worth something only with the same.
RIGHTS = "+sys_nice,+ipc_lock"
AS_SERVICE = ["setpriv", "--reuid=ghostnote", "--regid=ghostnote", "--init-groups", f"--inh-caps={RIGHTS}", f"--ambient-caps={RIGHTS}"]
FOLDERS = ["env", "HOME=/var/lib/ghostnote", "STATE_DIRECTORY=/var/lib/ghostnote", "CACHE_DIRECTORY=/var/cache/ghostnote"]


@dataclass
class Owner:
    """Somebody with a shell on the pedal."""

    pedal: Pedal
    digests: dict[str, str]

    def engine(self, *words: str, check: bool = True) -> str:
        """`ghostnote engine ...`, as root."""
        return self.pedal.container.run("ghostnote", "engine", *words, check=check, timeout_seconds=300)

    def flash(self, name: str) -> str:
        return self.engine("flash", f"/host/{name}.ghost")

    def certify(self, name: str, minutes: float = SOAK_MINUTES) -> str:
        """What it says; PASS or FAIL is a word of it."""
        soak = ["ghostnote", "certify", self.digests[name], "--minutes", str(minutes), "--load", "none"]
        given = ["--config", "/etc/ghostnote/ghostnote.toml"]
        command = soak if may_raise_limits() else [*AS_SERVICE, *FOLDERS, *soak, *given]
        return self.pedal.container.run(*command, check=False, timeout_seconds=300)

    def plays(self) -> str:
        return str(status(self.pedal)["engine"])

    def listed(self, name: str) -> str:
        """Its line of `ghostnote engine list`."""
        lines = self.engine("list").splitlines()
        return next((line for line in lines if self.digests[name][:12] in line and name in line), "")

    def restart(self, healthy_minutes: float) -> None:
        self.configure(healthy_minutes)
        self.pedal.systemctl("restart", "ghostnote")

    def configure(self, healthy_minutes: float) -> None:
        self.pedal.configure("current", STORE.format(minutes=healthy_minutes, late=LATE_BLOCKS), BUDGET_MS)


@pytest.fixture(scope="module")
def owner(pedal: Pedal) -> Iterator[Owner]:
    """The shipped engine plays; every other one lies at /host, signed by somebody whom the owner trusts."""
    share = pedal.container.share
    digests = {}
    for number, (name, change) in enumerate(ENGINES.items(), 1):
        digests[name] = made_engines.made(share / f"{name}.ghost", name, number, change() if change else None)
    (share / "maker.pub").write_text(made_engines.KEY.public.text())
    pedal.container.run("ghostnote", "key", "trust", "/host/maker.pub")
    pedal.cable.say("play")
    one = Owner(pedal, digests)
    one.restart(HEALTHY_MINUTES)
    await_engine(one, SHIPPED)
    yield one
    pedal.configure()
    pedal.systemctl("restart", "ghostnote")
    wait_for(lambda: pedal.stage().startswith("echo plays"), PATIENCE_SECONDS, "the plain engine")


def await_engine(owner: Owner, name: str) -> None:
    wait_for(lambda: owner.pedal.stage().startswith(f"{name} plays"), PATIENCE_SECONDS, name)
    time.sleep(3.0)  # what was late before is over


def test_flashed_certified_activated_and_good(owner: Owner) -> None:
    with undisturbed(owner.pedal):
        said = owner.flash("dawn")
        assert "is here" in said and "no certificate" in said and "next: ghostnote certify" in said
        assert "verified" in owner.listed("dawn")
        assert "no certificate" in owner.engine("activate", "dawn", check=False)
        assert "PASS" in (said := owner.certify("dawn")), said
    with undisturbed(owner.pedal, same_engine=False) as heard:
        assert "is on trial" in owner.engine("activate", "dawn")
    assert (heard.before.engine, heard.after.engine) == (SHIPPED, "dawn")
    assert status(owner.pedal)["forced"] == "" and "without a certificate" not in owner.pedal.stage()
    wait_for(lambda: "good" in owner.listed("dawn"), PATIENCE_SECONDS, "the end of the trial")
    assert "current" in owner.listed("dawn")


def test_too_slow_for_this_machine(owner: Owner) -> None:
    with undisturbed(owner.pedal):
        owner.flash("slow")
        assert "FAIL" in (said := owner.certify("slow", 0.1)), said
        assert "slow failed its soak" in owner.engine("activate", "slow", check=False)
        assert "late in the dark" in owner.engine("activate", "slow", "--force", check=False), "it proves itself before anybody hears it"
    assert "verified" in owner.listed("slow")


def test_golden_values_that_are_wrong(owner: Owner) -> None:
    with undisturbed(owner.pedal):
        owner.flash("golden")
        assert "FAIL" in (said := owner.certify("golden", 0.05)) and "golden" in said, said
        assert "golden failed its soak" in owner.engine("activate", "golden", check=False)


def test_too_large(owner: Owner) -> None:
    with (owner.pedal.container.share / "sparse.ghost").open("wb") as file:
        file.truncate(3 << 30)
    with undisturbed(owner.pedal):
        assert "more than any bundle has" in owner.engine("flash", "/host/sparse.ghost", check=False)
        owner.flash("huge")
        said = owner.engine("activate", "huge", "--force", check=False)
        assert "needs 262208 MB beside the one that plays" in said and "restart with it" in said


def test_crashing_in_the_dark(owner: Owner) -> None:
    """Nobody has heard it yet."""
    owner.pedal.cable.say("loud")
    time.sleep(2.0)
    try:
        with undisturbed(owner.pedal):
            owner.flash("fragile")
            said = owner.engine("activate", "fragile", "--force", check=False)
            assert "did not take over: its process ended" in said, said
    finally:
        owner.pedal.cable.say("soft")


def test_crashing_while_it_plays(owner: Owner) -> None:
    """It has a certificate, and breaks at the first loud note: the guitar sounds on, and so does soon the engine before it."""
    assert "PASS" in (said := owner.certify("fragile")), said
    with undisturbed(owner.pedal, same_engine=False):
        assert "is on trial" in owner.engine("activate", "fragile")
    silences = len(owner.pedal.cable.silences)
    owner.pedal.cable.say("loud")
    wait_for(lambda: owner.pedal.journal("GHOSTNOTE_EVENT=engine-back"), PATIENCE_SECONDS, "the end of it")
    owner.pedal.cable.say("soft")
    wait_for(lambda: owner.pedal.stage().startswith("dawn plays"), PATIENCE_SECONDS, "the engine before it")
    assert "taken back" in owner.listed("fragile") and "fragile" in owner.engine("list").split("was taken back: its process died")[0]
    assert "current" in owner.listed("dawn") and len(owner.pedal.cable.silences) == silences, "the guitar never stopped"


def test_late_on_trial(owner: Owner) -> None:
    """Forced, from the next start on: so many late blocks, and the engine before it plays again."""
    assert "from the next start on" in owner.engine("activate", "slow", "--force", "--restart")
    owner.pedal.systemctl("restart", "ghostnote")
    began = time.monotonic()
    wait_for(lambda: status_says(owner, "slow"), PATIENCE_SECONDS, "the forced one")
    silences = len(owner.pedal.cable.silences)
    wait_for(lambda: owner.pedal.journal("GHOSTNOTE_EVENT=engine-back", since=began), PATIENCE_SECONDS, "the end of it")
    await_engine(owner, "dawn")
    assert f"blocks were late, {LATE_BLOCKS} are allowed" in owner.engine("list")
    assert status(owner.pedal)["forced"] == "" and len(owner.pedal.cable.silences) == silences


def status_says(owner: Owner, name: str) -> bool:
    """The engine, and that it was forced; a pedal that has just started does not answer yet."""
    said = owner.pedal.container.run("ghostnote", "status", "--json", check=False)
    return f'"engine": "{name}"' in said and '"forced": "slow failed its soak' in said


def test_a_foot_agrees_to_what_lies_in_the_inbox(owner: Owner) -> None:
    """By the board's real firmware: its last switch blinks, and is held. It has no certificate: what is then forced, the light shows."""
    inbox = "/var/lib/ghostnote/engines/inbox"
    with a_board(owner.pedal.container) as board:
        wait_for(lambda: is_green(board.shows(STATUS_LIGHT)), PATIENCE_SECONDS, "the board")
        with undisturbed(owner.pedal):
            owner.pedal.container.run("runuser", "-u", "ghostnote", "--", "cp", "/host/dusk.ghost", inbox)
            wait_for(lambda: is_amber(board.shows(LAST_SWITCH_LIGHT)), PATIENCE_SECONDS, "the question")
            assert "waits for consent" in owner.listed("dusk")
            board.say(f"hold {LAST_SWITCH}")
            wait_for(lambda: "waits for consent" not in owner.listed("dusk"), PATIENCE_SECONDS, "consent")
            wait_for(lambda: owner.pedal.journal("GHOSTNOTE_DOING=arrival", "GHOSTNOTE_FAILED=True"), 5.0, "what became of it")
        with undisturbed(owner.pedal, same_engine=False):
            owner.engine("activate", "dusk", "--force")
            assert is_amber(board.shows(STATUS_LIGHT)) and owner.pedal.stage().endswith("without a certificate")
            assert status(owner.pedal)["forced"].startswith("no certificate")
            assert "dawn plays" in owner.engine("rollback")
            wait_for(lambda: is_green(board.shows(STATUS_LIGHT)), 2.0, "the light")


def is_green(colour: list[int]) -> bool:
    red, green, blue = colour
    return red == blue == 0 and green > 0


def is_amber(colour: list[int]) -> bool:
    red, green, blue = colour
    return red > 0 and green > 0 and blue == 0


def test_three_power_cuts_on_trial(owner: Owner) -> None:
    """Nothing is wrong with it but that the power goes before it has been good for long enough: the third start is the old one's."""
    owner.restart(NEVER_MINUTES)
    await_engine(owner, "dawn")
    owner.flash("dusk")
    assert "PASS" in (said := owner.certify("dusk")), said
    with undisturbed(owner.pedal, same_engine=False):
        owner.engine("activate", "dusk")
    heard = [owner.plays()]
    for _ in range(3):
        owner.pedal.power_cut()
        wait_for(lambda: " plays" in owner.pedal.stage(), PATIENCE_SECONDS, "an engine")
        heard.append(owner.plays())
    assert heard == ["dusk", "dusk", "dusk", "dawn"]
    assert "3 starts, and it was never good for long enough" in owner.engine("list")
    with undisturbed(owner.pedal):
        owner.engine("remove", "dusk")
        assert owner.listed("dusk") == ""
