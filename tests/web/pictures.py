"""The pictures of docs/web.md: the real page beside the real pedal with the shipped engine.

    python -m tests.web.pictures
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from appliance.presets import Place, Preset, PresetStore, Sound
from tests.web.browser import Page, open_browser
from tests.web.pedal import REPO, Home

CONFIG = '[engine]\nbundle = "reference"\nprompt = "choir"\nsteps = 1\n[controls]\ndelay_ms = 900'
PRESETS = {
    Place(1, 1): Preset("Verse", Sound(prompt="string ensemble", delay_ms=900, mix=0.4)),
    Place(1, 2): Preset("Chorus", Sound(prompt="choir", second_prompt="church organ", delay_ms=900, mix=0.55, repeats=0.3)),
    Place(1, 3): Preset("Solo", Sound(prompt="grand piano", delay_ms=744, mix=0.5, stray=0.4)),
}
LOOK_SECONDS = 45.0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder)) as browser:
        home = Home(Path(folder), CONFIG)
        home.inbox.mkdir(parents=True)
        for place, preset in PRESETS.items():
            PresetStore(home.storage).save(place, preset)
        certify = [sys.executable, "-m", "appliance", "certify", "--minutes", "0.5", "--load", "none", "--config", str(home.toml)]
        subprocess.run(certify, cwd=REPO, env=home.environment)
        with home.pedal(), home.web() as web:
            desk = browser.page(1200, 1130)
            desk.go(web.address)
            time.sleep(LOOK_SECONDS)
            desk.click('[data-place="1.2"] button')
            desk.click('[data-place="1.2"] button + button')
            desk.click("#save-flight")
            desk.wait("document.querySelector('#flight-list a')", 60)
            desk.run("document.activeElement.blur()")
            keep(desk, "web-desk.png")
            phone = browser.page(360, 700, phone=True)
            phone.go(f"http://{web.host}/")
            time.sleep(3)
            keep(phone, "web-phone.png")


def keep(page: Page, name: str) -> None:
    """In few colours: that is all it has."""
    place = REPO / "docs" / name
    page.picture(place)
    with Image.open(place) as picture:
        picture.convert("RGB").quantize(64).save(place, optimize=True)


if __name__ == "__main__":
    main()
