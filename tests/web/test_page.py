"""The page as somebody uses it: a real Chromium, the real program, a real pedal beside it."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from appliance.presets import Place, Preset, PresetStore, Sound
from appliance.status import fetch
from appliance.web.live import EVERY_SECONDS
from tests.appliance.tiny_engines import tiny
from tests.web import browser as chromium
from tests.web.browser import Browser, Page, open_browser
from tests.web.pedal import Home, Web, until

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not chromium.program(), reason="Chromium is not installed (apt install chromium)"),
]
STYLE = Path(__file__).parents[2] / "appliance" / "web" / "static" / "style.css"
NASTY = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    home.inbox.mkdir(parents=True)
    PresetStore(home.storage).save(Place(3, 1), Preset(NASTY, Sound(mix=0.25)))
    return home


@pytest.fixture(scope="module")
def web(home: Home) -> Iterator[Web]:
    with home.pedal(), home.web() as web:
        yield web


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(web: Web, browser: Browser) -> Page:
    """Entered by the address that `ghostnote web token` shows."""
    page = browser.page()
    page.go(web.address)
    page.wait("document.getElementById('health').dataset.health")
    return page


def pedal_says(home: Home) -> dict[str, object]:
    return dict(fetch(home.folder / "ghostnote" / "status.sock"))


# In, and not in


def test_the_token_opens_the_page_and_is_gone_from_the_address(web: Web, page: Page) -> None:
    assert page.run("location.href") == f"http://{web.host}/" and web.token not in page.run("document.documentElement.outerHTML")
    assert page.run("document.cookie") == "", "scripts do not see it"
    assert page.complaints() == []


def test_without_it_there_is_a_form(web: Web, browser: Browser) -> None:
    context = browser.call("Target.createBrowserContext")["browserContextId"]
    stranger = browser.page(context=context)
    stranger.go(f"http://{web.host}/#aaaaaa-bbbbbb")
    stranger.wait("document.querySelector('#login .line').textContent.startsWith('that is not the token')")
    assert stranger.run("document.getElementById('page').hidden")
    stranger.fill("#token", web.token.upper())
    stranger.click("#login button")
    stranger.wait("!document.getElementById('page').hidden && document.getElementById('health').dataset.health")
    browser.call("Target.disposeBrowserContext", browserContextId=context)


# Live


def test_chart_and_levels_move(home: Home, page: Page) -> None:
    before = page.run("document.getElementById('slack').getAttribute('points')")
    page.wait(f"document.getElementById('slack').getAttribute('points') != {json.dumps(before)}")
    assert page.text("#health") in ("on time", "close", "fallback")
    assert "echo" in page.text("#playing")
    assert -20 < page.run("document.getElementById('guitar').value") < 0, "noise of 0.1"
    assert re.search(r"Slack: -?\d+ ms now, least -?\d+ ms of the last \d+ s", page.text("#chart-words"))


def test_however_many_look_the_pedal_is_asked_once(web: Web, browser: Browser, page: Page) -> None:
    """Two that look get the very same answers, no more often than it is asked."""
    other = browser.page()
    other.go(f"http://{web.host}/")
    script = """new Promise(done => {
        const began = performance.now(), found = [[], []], sources = found.map(() => new EventSource("/api/live"));
        sources.forEach((source, number) => (source.onmessage = (event) => {
            found[number].push(event.data);
            if (found.some(heard => heard.length < 6)) return;
            sources.forEach(one => one.close());
            done({found, seconds: (performance.now() - began) / 1000});
        }));
    })"""
    said = other.run(script)
    one, another = (heard[:6] for heard in said["found"])
    assert sum(answer in one for answer in another) >= 4, "one may begin a little later, or be a little slower"
    assert max(map(len, said["found"])) <= 2 + said["seconds"] / EVERY_SECONDS
    browser.close(other)


# Presets


def test_a_preset_is_written_saved_and_played(home: Home, page: Page) -> None:
    page.wait("document.getElementById('sound-mix')")
    page.fill("#place", "1.2")
    page.fill("#name", "Stage choir")
    page.set("#sound-mix", "0.8")
    page.set("#sound-delay_ms", "900")
    page.click("#preset-form button")
    page.wait("document.querySelector('#preset-form .line').textContent == 'saved as preset 1.2 Stage choir'")
    page.wait("document.querySelector('[data-place=\"1.2\"]')")
    until(lambda: Place(1, 2) in PresetStore(home.storage).places())
    kept = PresetStore(home.storage).load(Place(1, 2))
    assert (kept.name, kept.sound.mix, kept.sound.delay_ms) == ("Stage choir", 0.8, 900.0)
    page.click('[data-place="1.2"] button')
    page.wait("document.querySelector('[data-place=\"1.2\"]').ariaCurrent == 'true'")
    page.set("#sound-mix", "0.1")
    page.click('[data-place="1.2"] button + button')
    page.wait("document.getElementById('sound-mix').value == '0.8' && document.getElementById('name').value == 'Stage choir'")
    said = pedal_says(home)
    assert said["preset"] == "1.2" and said["sound"]["mix"] == 0.8  # type: ignore[index]


def test_a_preset_that_can_not_be_is_refused_in_one_line(page: Page) -> None:
    page.fill("#place", "1.2")
    page.fill("#name", "1.3")
    page.click("#preset-form button")
    page.wait("document.querySelector('#preset-form .line.bad')?.textContent.startsWith('a preset can')")


def test_what_a_preset_is_called_is_never_markup(page: Page) -> None:
    page.wait("document.querySelector('[data-place=\"3.1\"]')")
    assert NASTY in page.text('[data-place="3.1"]') and not page.run("document.querySelector('#preset-list img')")
    assert page.run("document.title") == "Ghostnote"


# Engines

WATCH_PROGRESS = """(() => {
    const bar = document.getElementById("progress");
    window.shares = [];
    new MutationObserver(() => window.shares.push(bar.value)).observe(bar, {attributes: true, attributeFilter: ["value"]});
})()"""


def test_a_bundle_is_uploaded_with_progress(home: Home, page: Page, tmp_path: Path) -> None:
    bundle = tiny(tmp_path / "tiny.ghost", size=900_000)
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=400_000)
    page.run(WATCH_PROGRESS)
    page.choose_file("#bundle", bundle)
    page.click("#upload button")
    page.wait("window.shares.some(share => share > 0.05 && share < 0.95)")
    page.wait("document.querySelector('#upload .line').textContent.includes('tiny.ghost waits for the store')")
    page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    shares = page.run("window.shares")
    assert shares == sorted(shares) and shares[-1] == 1
    assert (home.inbox / "tiny.ghost").read_bytes() == bundle.read_bytes() and len(list(home.inbox.iterdir())) == 1
    (home.inbox / "tiny.ghost").unlink()


@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_broken_one_is_refused_with_its_line(home: Home, browser: Browser, web: Web, page: Page, tmp_path: Path, damage: str) -> None:
    bundle = tiny(tmp_path / "broken.ghost")
    bundle.write_bytes(bundle.read_bytes()[:-40] if damage == "cut" else b"not a bundle at all" * 50)
    other = browser.page()
    other.go(f"http://{web.host}/")
    other.wait("document.querySelector('#engine-list li')")
    other.choose_file("#bundle", bundle)
    other.click("#upload button")
    other.wait("document.querySelector('#upload .line.bad')?.textContent.includes('broken.ghost')")
    assert other.text("#upload .line").startswith("broken.ghost") and not list(home.inbox.iterdir())
    browser.close(other)


# The flight recorder


def test_a_flight_is_saved_and_taken_away(home: Home, browser: Browser, page: Page, tmp_path: Path) -> None:
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.click("#save-flight")
    page.wait("document.querySelector('#flight-list a')")
    name = page.text("#flight-list a")
    page.click("#flight-list a")
    until(lambda: (tmp_path / name).exists())
    assert (tmp_path / name).read_bytes() == (home.storage / "flights" / name).read_bytes() != b""


# Other sites

HOSTILE = """<!doctype html><body>
<form id=f method=post action="http://{host}/api/flights" target=frame><input name=a></form>
<form id=g method=post enctype="text/plain" action="http://{host}/api/engines/rollback" target=frame>
<input name='{{"a":"' value='"}}'></form>
<iframe name=frame></iframe><iframe id=framed src="http://{host}/"></iframe>
<script>
const tried = {{}}, flights = "http://{host}/api/flights", json = {{"content-type": "application/json"}}, live = "http://{host}/api/live";
async function attempt(name, what) {{ try {{ tried[name] = await what(); }} catch (error) {{ tried[name] = "refused"; }} }}
const asked = (to, how) => fetch(to, {{credentials: "include", ...how}});
(async () => {{
  f.submit(); g.submit();
  await attempt("read", async () => (await asked(flights)).text());
  await attempt("blind", async () => (await asked(flights, {{method: "POST", mode: "no-cors", body: "{{}}"}})).type);
  await attempt("json", async () => (await asked(flights, {{method: "POST", headers: json, body: "{{}}"}})).text());
  await attempt("put", async () => (await asked("http://{host}/api/inbox/evil.ghost", {{method: "PUT", body: "evil"}})).text());
  await attempt("live", () => new Promise((done, not) => {{
    const source = new EventSource(live, {{withCredentials: true}});
    source.onmessage = (event) => done(event.data);
    source.onerror = not;
  }}));
  tried.over = true;
}})();
</script>"""


@contextmanager
def site(folder: Path) -> Iterator[int]:
    """Another web server of this machine."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_another_site_gets_nothing_and_does_nothing(home: Home, web: Web, browser: Browser, page: Page, name: str, tmp_path: Path) -> None:
    """In the very browser that has the cookie. `localhost` is another site; 127.0.0.1 with another port is the same site, but another
    origin, and does get the cookie sent along."""
    (tmp_path / "index.html").write_text(HOSTILE.format(host=web.host))
    before = sorted(path for path in home.storage.rglob("*") if path.suffix in (".flight", ".ghost", ".part"))
    with site(tmp_path) as port:
        hostile = browser.page()
        hostile.go(f"http://{name}:{port}/")
        hostile.wait("tried.over")
        tried = hostile.run("tried")
    assert {tried[what] for what in ("read", "json", "put", "live")} == {"refused"} and tried["blind"] in ("opaque", "refused")
    assert any("frame" in complaint and "violates" in complaint for complaint in hostile.complaints()), "it may not be framed"
    assert before == sorted(path for path in home.storage.rglob("*") if path.suffix in (".flight", ".ghost", ".part"))
    browser.close(hostile)


# For everybody


def test_it_fits_a_phone_and_everything_has_a_name(web: Web, browser: Browser, page: Page) -> None:
    phone = browser.page(390, 844, phone=True)
    phone.go(f"http://{web.host}/")
    phone.wait("document.getElementById('sound-mix')")
    assert phone.run("document.documentElement.scrollWidth") <= 390
    small = "[...document.querySelectorAll('button')].filter(b => b.offsetParent && b.getBoundingClientRect().height < 44).length"
    assert phone.run(small) == 0, "a finger must hit it"
    nodes = phone.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "textbox", "slider", "spinbutton", "combobox", "checkbox", "meter", "img", "progressbar", "link")
    shown = [node for node in nodes if not node["ignored"] and node["role"]["value"] in roles]
    nameless = [node["role"]["value"] for node in shown if not node.get("name", {}).get("value")]
    assert len(shown) > 20 and not nameless, nameless
    browser.close(phone)


def test_the_browser_has_nothing_to_complain_about(page: Page) -> None:
    """After all of the above, but for what was refused on purpose."""
    refused = "the server responded with a status of"
    assert [complaint for complaint in page.complaints() if refused not in complaint] == []


def test_the_keyboard_sees_where_it_is(page: Page) -> None:
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
    page.call("Input.dispatchKeyEvent", type="keyUp", key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_all_text_stands_out() -> None:
    """As WCAG 2 counts contrast; 7:1 is its highest grade."""
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", STYLE.read_text()))
    for text in ("text", "quiet", "good", "close", "bad"):
        for ground in ("ground", "raised"):
            assert contrast(colours[text], colours[ground]) >= 7, (text, ground)
    lights = re.findall(r"data-health=.*background: var\(--(\w+)\); color: (#\w+);", STYLE.read_text())
    assert len(lights) == 3 and all(contrast(text, colours[ground]) >= 7 for ground, text in lights)


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_without_a_pedal_the_page_says_so(tmp_path: Path, browser: Browser) -> None:
    alone = Home(tmp_path)
    with alone.web() as web:
        page = browser.page()
        page.go(web.address)
        page.wait("document.getElementById('trouble').textContent.startsWith('no pedal answers')")
        page.click("#save-flight")
        page.wait("document.querySelector('#flights .line.bad')?.textContent.startsWith('no pedal is playing')")
    page.wait("document.getElementById('trouble').textContent.includes('is `ghostnote web` running?')")
    browser.close(page)
