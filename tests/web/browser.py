"""A real browser for tests: headless Chromium, told what to do over a pair of pipes (its DevTools protocol). No driver, no port.

    with open_browser(folder) as browser:
        page = browser.page(width=390, height=844)
        page.go("http://...")
        page.wait("document.querySelector('h1').textContent == 'Ghostnote'")
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# Nothing of its own is looked up, loaded or reported while a test runs. --no-sandbox: root may not have one.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--disable-breakpad"]
FLAGS += ["--hide-scrollbars", "--remote-debugging-pipe"]
PATIENCE_SECONDS = 60.0
# Chromium looks for its pipes at 3 and 4.
MOVE = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
AT_ITS_PLACE = [sys.executable, "-c", MOVE]


def program() -> str | None:
    """None where there is no Chromium."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One process. Commands wait for their answers; events are kept for whoever asks."""

    def __init__(self, to: int, by: int) -> None:
        self._to, self._from = to, by
        self._rest, self._last = b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        asked = {"id": self._last, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(asked).encode() + b"\0")
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            for said in self._messages(1.0):
                if said.get("id") == self._last:
                    assert "error" not in said, f"{method}: {said['error']}"
                    return dict(said["result"])
        raise AssertionError(f"Chromium does not answer {method}")

    def listen(self, seconds: float) -> None:
        for _ in self._messages(seconds):
            pass

    def _messages(self, seconds: float) -> Iterator[dict[str, Any]]:
        if select.select([self._from], [], [], seconds)[0]:
            *whole, self._rest = (self._rest + os.read(self._from, 1 << 20)).split(b"\0")
            found = [json.loads(text) for text in whole]
            self.events += [one for one in found if "method" in one]
            yield from found

    def page(self, width: int = 1280, height: int = 900, phone: bool = False, context: str | None = None) -> Page:
        """`context`: one of its own shares no cookies."""
        own = {"browserContextId": context} if context else {}
        target = self.call("Target.createTarget", url="about:blank", **own)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            page.call(f"{domain}.enable")
        scale = 2 if phone else 1
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone)
        return page

    def close(self, page: Page) -> None:
        self.call("Target.closeTarget", targetId=page.target)


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser, self.session, self.target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def go(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState == 'complete' && location.href != 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression; what it promises is awaited."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Until a JavaScript expression is true."""
        give_up_at = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < give_up_at, f"never true: {condition}\n{self.text()}"
            self.browser.listen(0.1)

    def text(self, selector: str = "body") -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def fill(self, selector: str, text: str) -> None:
        """As if typed: the element gets the focus and the letters."""
        self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select?.(); }})()")
        self.call("Input.insertText", text=text)

    def set(self, selector: str, value: str) -> None:
        """Of a slider or a number, as if it had been moved there."""
        moved = f"e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}}))"
        self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); {moved}; }})()")

    def choose_file(self, selector: str, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def picture(self, path: Path, whole: bool = False) -> None:
        """A screenshot as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """What the browser had to say against the page: errors, refused resources, broken rules."""
        self.browser.listen(0.2)
        mine = [one for one in self.browser.events if one.get("sessionId") == self.session]
        entries = [one["params"]["entry"] for one in mine if one["method"] == "Log.entryAdded"]
        logged = [entry["text"] for entry in entries if entry["level"] == "error"]
        return logged + [one["params"]["exceptionDetails"]["text"] for one in mine if one["method"] == "Runtime.exceptionThrown"]


def _pipe() -> tuple[int, int]:
    """Out of the way of 3 and 4."""
    low = os.pipe()
    read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in low)
    for fd in low:
        os.close(fd)
    return read, write


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Chromium with a profile of its own in `folder`."""
    chromium = program()
    assert chromium, "there is no Chromium"
    (theirs_read, ours_write), (ours_read, theirs_write) = _pipe(), _pipe()
    command = [chromium, *FLAGS, f"--user-data-dir={folder / 'profile'}"]
    with (folder / "chromium.log").open("wb") as log:
        environment = {**os.environ, "HOME": str(folder)}
        handed = [*AT_ITS_PLACE, str(theirs_read), str(theirs_write), *command]
        process = subprocess.Popen(handed, pass_fds=[theirs_read, theirs_write], stdout=log, stderr=log, env=environment)
    os.close(theirs_read)
    os.close(theirs_write)
    browser = Browser(ours_write, ours_read)
    try:
        browser.call("Browser.getVersion")
        yield browser
        browser.call("Browser.close")
    finally:
        os.close(ours_write)
        os.close(ours_read)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
