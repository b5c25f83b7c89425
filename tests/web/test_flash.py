"""An engine's way onto the pedal and into play, by the page: a pedal that plays what is flashed, its store, its inbox, its owner's keys."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.orders import OrderError, send
from appliance.status import fetch
from engines.bundle import REFERENCE, Bundle, write_bundle
from tests.trust.keys import KEY, STRANGER
from tests.trust.toy import write_toy
from tests.web import browser as chromium
from tests.web.browser import Page, open_browser
from tests.web.pedal import REPO, Home, until

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not chromium.program(), reason="Chromium is not installed (apt install chromium)"),
]
# So much time for a block that any machine has it: this is not about being fast.
CONFIG = '[engine]\nbundle = "current"\nkeys = "{keys}"\nsteps = 1\nbudget_ms = 1500\n[store]\nhealthy_minutes = 0.05'
SOAK = ["--minutes", "0.1", "--load", "none"]
PLAYS_SECONDS = 120.0
ARRIVAL, CHANGE = "#upload .line", "#engines > .line"  # what became of an upload, and of an activation


@dataclass
class Flashing:
    home: Home
    page: Page

    def upload(self, path: Path) -> None:
        self.page.run(f"document.querySelector({ARRIVAL!r}).textContent = ''")
        self.page.choose_file("#bundle", path)
        self.page.click("#upload button")

    def ends(self, where: str, words: str, bad: bool = False) -> str:
        """The line, once it is the last one."""
        has = f"e => e.textContent.includes({words!r}) && e.classList.contains('bad') == {str(bad).lower()}"
        self.page.wait(f"[document.querySelector({where!r})].some({has})", PLAYS_SECONDS)
        return self.page.text(where)


@pytest.fixture(scope="module")
def flashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flashing]:
    folder = tmp_path_factory.mktemp("flashing")
    keys = folder / "keys"
    keys.mkdir()
    (keys / "owner.pub").write_text(KEY.public.text())
    home = Home(folder, CONFIG.format(keys=keys))
    with home.pedal(), home.web() as web, open_browser(folder) as browser:
        page = browser.page()
        page.go(web.address)
        page.wait("document.querySelector('#engine-list li[aria-current=true]')")
        yield Flashing(home, page)


def test_a_signed_engine_is_taken_in_and_listed_and_not_yet_played(flashing: Flashing, tmp_path: Path) -> None:
    toy = write_toy(tmp_path / "toy.ghost")
    flashing.upload(tmp_path / "toy.ghost")
    flashing.ends(ARRIVAL, f"toy 3 ({toy.digest[:12]}) is on the pedal; before it plays, somebody at the pedal must hold a footswitch")
    item = flashing.page.text(f'[data-digest="{toy.digest}"]')
    assert "toy 3" in item and f"signed by {KEY.public.name}" in item and "no certificate on this device" in item
    flashing.page.click(f'[data-digest="{toy.digest}"] button')
    assert "run `ghostnote certify" in flashing.ends(CHANGE, "certificate", bad=True)
    assert fetch(flashing.home.folder / "ghostnote" / "status.sock")["engine"] == "reference"


@pytest.mark.parametrize("signed_by", ["nobody", "a stranger"])
def test_one_that_the_owner_does_not_trust_is_refused_with_the_stores_line(flashing: Flashing, tmp_path: Path, signed_by: str) -> None:
    name = f"{signed_by.replace(' ', '-')}.ghost"
    toy = write_toy(tmp_path / name, STRANGER if signed_by == "a stranger" else None, author=signed_by)
    flashing.upload(tmp_path / name)
    assert flashing.ends(ARRIVAL, name, bad=True) == (flashing.home.inbox / "refused" / f"{name}.txt").read_text().strip()
    assert not flashing.page.run(f"Boolean(document.querySelector('[data-digest=\"{toy.digest}\"]'))")


def test_there_is_nothing_to_go_back_to(flashing: Flashing) -> None:
    flashing.page.click("#rollback")
    flashing.ends(CHANGE, "there is none to go back to", bad=True)


@pytest.mark.slow
def test_flashed_certified_agreed_to_and_played(flashing: Flashing, tmp_path: Path) -> None:
    """The whole way. The foot on the switch is given by word, as a pedal without switches allows at its own shell."""
    home, page, socket = flashing.home, flashing.page, flashing.home.folder / "ghostnote" / "orders.sock"
    another = signed_copy(tmp_path / "another.ghost")
    flashing.upload(tmp_path / "another.ghost")
    flashing.ends(ARRIVAL, f"({another.digest[:12]}) is on the pedal")
    certify = [sys.executable, "-m", "appliance", "certify", another.digest, *SOAK, "--config", str(home.toml)]
    done = subprocess.run(certify, cwd=REPO, env=home.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page.click(f'[data-digest="{another.digest}"] button')
    flashing.ends(CHANGE, "Hold the last footswitch")

    def agrees() -> bool:
        try:
            return bool(send("consent", socket))
        except OrderError:
            return False

    until(agrees)
    flashing.ends(CHANGE, "is on trial")
    page.wait(f"document.querySelector('[data-digest=\"{another.digest}\"]').ariaCurrent == 'true'")
    assert "PASS" in page.text(f'[data-digest="{another.digest}"]')
    page.click(f'[data-digest="{another.digest}"] summary')
    page.wait(f"document.querySelector('[data-digest=\"{another.digest}\"] img')?.naturalWidth > 100")
    page.click("#rollback")
    flashing.ends(CHANGE, "reference plays")
    page.wait("document.querySelector('#engine-list li[aria-current=true]').innerText.includes('factory')")


def signed_copy(path: Path) -> Bundle:
    """The shipped engine under another digest, signed by the pedal's owner."""
    shipped = Bundle.open(REFERENCE)
    facts = {**shipped.manifest.head, "author": "somebody else"}
    files = {entry.path: shipped.read(entry.path) for entry in shipped.manifest.files}
    write_bundle(path, facts, files)
    write_bundle(path, facts, files, KEY.sign(Bundle.open(path).manifest_bytes, "copy"))
    return Bundle.open(path)
