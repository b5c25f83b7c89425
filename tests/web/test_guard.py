"""Who is let in and who is not, asked of the real program over a real connection."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.cli import main
from appliance.config import parse_config
from appliance.web.listen import WebError, open_sockets
from appliance.web.token import GROUPS, LETTERS, Token
from tests.web.pedal import Home, Web, until

MB = 1_000_000


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"), '[web]\nupload_mb = 1\nnames = "pedal.local"')
    home.inbox.mkdir(parents=True)
    flights = home.storage / "flights"
    flights.mkdir()
    (flights / "20260101T120000Z.flight").write_bytes(b"what was played" * 1000)
    (home.storage / "secret.flight").write_text("not for you")
    (flights / "link.flight").symlink_to(home.storage / "secret.flight")
    return home


@pytest.fixture(scope="module")
def running(home: Home) -> Iterator[Web]:
    with home.web() as web:
        yield web


@pytest.fixture
def web(running: Web) -> Web:
    running.enter()
    return running


# The token


def test_the_page_itself_is_open_and_says_nothing(running: Web) -> None:
    for path in ("/", "/app.js", "/style.css", "/icon.svg"):
        answer = running.ask("GET", path, Cookie="")
        assert answer.status == 200 and running.token.encode() not in answer.body
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "server" not in answer.headers and "access-control-allow-origin" not in answer.headers


EVERYTHING = [
    ("GET", "/api/live"),
    ("GET", "/api/presets"),
    ("PUT", "/api/presets/1.1"),
    ("POST", "/api/presets/1.1/load"),
    ("GET", "/api/engines"),
    ("POST", "/api/engines/rollback"),
    ("GET", "/api/engines/task"),
    ("POST", f"/api/engines/{'0' * 64}/activate"),
    ("GET", f"/api/engines/{'0' * 64}/picture"),
    ("PUT", "/api/inbox/a.ghost"),
    ("GET", "/api/inbox/a.ghost"),
    ("GET", "/api/flights"),
    ("POST", "/api/flights"),
    ("GET", "/api/flights/20260101T120000Z.flight"),
    ("GET", "/api/no-such-thing"),
]


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
@pytest.mark.parametrize("cookie", ["", "ghostnote=", "ghostnote=wrong", "ghostnote=" + "0" * 64, "other=1"])
def test_nothing_is_said_or_done_without_the_token(running: Web, method: str, path: str, cookie: str) -> None:
    answer = running.ask(method, path, b"{}" if method != "GET" else None, Cookie=cookie)
    assert answer.status == 401 and "ghostnote web token" in answer.line


@pytest.mark.parametrize("given", ["", "wrong", "é", None, 3, ["a"]])
def test_a_wrong_token_gets_no_cookie(running: Web, given: object) -> None:
    answer = running.ask("POST", "/api/login", {"token": given}, Cookie="")
    assert answer.status == 401 and "set-cookie" not in answer.headers


def test_the_token_gets_a_cookie_that_scripts_and_other_sites_do_not(running: Web) -> None:
    answer = running.ask("POST", "/api/login", {"token": f" {running.token.upper()} "}, Cookie="")
    assert answer.status == 200
    words = {word.strip().lower() for word in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=strict", "path=/"} <= words and running.token not in answer.headers["set-cookie"]


def test_a_new_token_ends_every_session(home: Home, web: Web) -> None:
    assert web.ask("GET", "/api/flights").status == 200
    token = Token(home.folder / "state" / "ghostnote-web")
    token.renew()
    assert web.ask("GET", "/api/flights").status == 401 and web.enter().status == 401
    web.token = token.text
    assert web.enter().status == 200 and web.ask("GET", "/api/flights").status == 200


def test_the_token_is_made_once_and_is_its_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    token = Token(tmp_path / "ghostnote-web")
    assert stat.S_IMODE(token.path.stat().st_mode) == 0o600 and stat.S_IMODE(token.path.parent.stat().st_mode) == 0o700
    assert len(token.text.split("-")) == GROUPS and set(token.text) <= {*LETTERS, "-"}
    assert Token(tmp_path / "ghostnote-web").text == token.text and not list(tmp_path.rglob(".token*"))
    assert main(["web", "token"]) == 0 and capsys.readouterr().out == f"http://127.0.0.1:8730/#{token.text}\n"
    assert main(["web", "token", "--new"]) == 0 and Token(tmp_path / "ghostnote-web").text in capsys.readouterr().out
    assert Token(tmp_path / "ghostnote-web").cookie != token.text


def test_many_that_begin_at_once_agree_on_one_token(tmp_path: Path) -> None:
    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if Token(tmp_path / "t").text else 1)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["token"]


# Other names, other sites


STRANGERS = ["evil.example", "127.0.0.1.evil.example", "127.0.0.2", "10.42.0.1", "[::1]", "localhost.evil.example", "a:b:c"]


@pytest.mark.parametrize("host", STRANGERS)
def test_a_name_that_is_not_the_pedals_is_refused(web: Web, host: str) -> None:
    port = web.host.rpartition(":")[2]
    for path in ("/", "/api/flights"):
        assert web.ask("GET", path, Host=f"{host}:{port}").status == 421
    answer = web.ask("POST", "/api/login", {"token": web.token}, Host=f"{host}:{port}", Origin=f"http://{host}:{port}")
    assert answer.status == 421 and "set-cookie" not in answer.headers


def test_its_own_names_are_taken(web: Web) -> None:
    for host in (web.host, web.host.replace("127.0.0.1", "localhost"), "pedal.local", "PEDAL.local:80", "127.0.0.1:9999"):
        assert web.ask("GET", "/api/flights", Host=host).status == 200, f"{host}: a tunnel may have another port"


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "https://{host}", "http://{host}.evil.example", "http://localhost:1"])
def test_what_changes_something_must_come_from_the_page_itself(home: Home, web: Web, origin: str) -> None:
    given = origin.format(host=web.host)
    for method, path in (entry for entry in EVERYTHING if entry[0] != "GET"):
        answer = web.ask(method, path, b"{}", Origin=given)
        assert answer.status == 403 and "another site" in answer.line
    assert not list(home.inbox.iterdir())


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_browsers_that_say_where_they_come_from_are_believed(web: Web, site: str) -> None:
    assert web.ask("GET", "/api/flights", Sec_Fetch_Site=site).status == 403
    assert web.ask("POST", "/api/flights", b"{}", Sec_Fetch_Site=site).status == 403
    assert web.ask("GET", "/", Sec_Fetch_Site=site).status == 200, "a link to it may be anywhere"
    assert web.ask("GET", "/api/flights", Sec_Fetch_Site="same-origin").status == 200


# Sizes and paths


def test_a_bundle_that_is_too_large_is_refused_before_it_is_sent(home: Home, web: Web) -> None:
    began = time.monotonic()
    answer = web.ask("PUT", "/api/inbox/a.ghost", b"only the beginning", Content_Length=str(10**12))
    assert answer.status == 413 and "larger than 1 MB" in answer.line and time.monotonic() - began < 10
    assert not list(home.inbox.iterdir())


def test_a_bundle_that_does_not_say_how_large_it_is_is_cut_off(home: Home, web: Web) -> None:
    """Chunked: the size is found out on the way, and nothing of it stays."""
    head = f"PUT /api/inbox/a.ghost HTTP/1.1\r\nHost: {web.host}\r\nOrigin: http://{web.host}\r\nCookie: {web.cookie}\r\n"
    host, _, port = web.host.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 64 * MB:
                connection.sendall(b"10000\r\n" + b"\0" * 0x10000 + b"\r\n")
                sent += 0x10000
        except OSError:
            pass
        try:
            answer = connection.recv(4096)
        except OSError:
            answer = b""
    assert sent < 64 * MB and answer[:12] in (b"HTTP/1.1 413", b"")
    until(lambda: not list(home.inbox.iterdir()))


def test_an_upload_that_breaks_off_leaves_nothing(home: Home, web: Web) -> None:
    head = f"PUT /api/inbox/a.ghost HTTP/1.1\r\nHost: {web.host}\r\nOrigin: http://{web.host}\r\nCookie: {web.cookie}\r\n"
    host, _, port = web.host.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(f"{head}Content-Length: 900000\r\n\r\n".encode() + b"\0" * 300_000)
        until(lambda: [path.name for path in home.inbox.iterdir()] == [".a.ghost.part"])
        assert web.ask("PUT", "/api/inbox/b.ghost", b"x").status == 409, "one at a time"
    until(lambda: not list(home.inbox.iterdir()))


NO_NAMES = ["a.zip", ".ghost", ".hidden.ghost", "a%20b.ghost", "-a.ghost", "a.ghost.part", "x" * 90 + ".ghost", "%C3%A9.ghost"]
NO_NAMES += ["%2e%2e%2fa.ghost", "..%5ca.ghost", "a%00.ghost", "a%0a.ghost", "%2fetc%2fa.ghost", "../../a.ghost"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_is_no_name_is_refused(home: Home, web: Web, name: str) -> None:
    before = sorted(home.folder.rglob("*"))
    answer = web.ask("PUT", f"/api/inbox/{name}", b"whatever")
    assert answer.status in (400, 404, 405) and "\n" not in answer.line
    assert sorted(home.folder.rglob("*")) == before


TRICKS = ["../secret.flight", "..%2fsecret.flight", "%2e%2e/secret.flight", "link.flight", "secret.flight", "..", "%00.flight"]


@pytest.mark.parametrize("name", TRICKS)
def test_only_flights_are_given_away(web: Web, name: str) -> None:
    answer = web.ask("GET", f"/api/flights/{name}")
    assert answer.status in (404, 409) and b"not for you" not in answer.body


@pytest.mark.parametrize("path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/%2e%2e%2f%2e%2e%2fcli.py"])
def test_only_the_pages_own_files_are_given_away(web: Web, path: str) -> None:
    answer = web.ask("GET", path)
    assert answer.status in (400, 404) and b"import" not in answer.body and b"root:" not in answer.body


def test_a_flight_comes_whole(web: Web) -> None:
    listed = json.loads(web.ask("GET", "/api/flights").body)["flights"]
    assert listed == [{"name": "20260101T120000Z.flight", "bytes": 15_000}]
    answer = web.ask("GET", "/api/flights/20260101T120000Z.flight")
    assert answer.body == b"what was played" * 1000 and "attachment" in answer.headers["content-disposition"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 10_000, b'{"token": "' + b"x" * 20_000 + b'"}'])
def test_bodies_that_make_no_sense_are_one_line(web: Web, body: bytes) -> None:
    for method, path in (("POST", "/api/login"), ("PUT", "/api/presets/1.1")):
        answer = web.ask(method, path, body)
        assert answer.status in (400, 413) and "\n" not in answer.line


def test_without_a_pedal_it_says_so_in_one_line(web: Web) -> None:
    assert web.ask("POST", "/api/flights", b"{}").line.startswith("no pedal is playing")
    answer = web.ask("PUT", "/api/presets/1.1", {"name": "a", "sound": {}})
    assert answer.status == 409 and answer.line.startswith("no pedal is playing")
    host, _, port = web.host.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(f"GET /api/live HTTP/1.1\r\nHost: {web.host}\r\nCookie: {web.cookie}\r\n\r\n".encode())
        said = b""
        while b"\n\n" not in said:
            said += connection.recv(4096)
    assert b'data: {"line":"no pedal answers' in said


MISTAKES = [
    ("1.1", {"name": "", "sound": {}}, "can't be called"),
    ("1.1", {"name": "a", "sound": {"mix": 7}}, "mix = 7 is not allowed"),
    ("1.1", {"name": "a", "sound": {"nix": 0.5}}, "did you mean mix?"),
    ("1.1", {"name": "a", "sound": [1]}, "must be a table"),
    ("99.9", {"name": "a", "sound": {}}, "there is no place"),
    ("..", {"name": "a", "sound": {}}, ""),
    ("x", {"name": "a", "sound": {}}, "is no place"),
]


@pytest.mark.parametrize(("place", "wish", "says"), MISTAKES)
def test_a_preset_that_can_not_be_is_refused(web: Web, place: str, wish: dict[str, object], says: str) -> None:
    answer = web.ask("PUT", f"/api/presets/{place}", wish)
    assert answer.status in (404, 405, 409) and says in answer.line


# Where it listens


def free_port() -> int:
    """Below the range from which the kernel gives outgoing connections theirs: nobody takes it before the test does."""
    for port in range(20_000, 32_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def test_it_listens_to_this_machine_only_unless_told_otherwise() -> None:
    port = free_port()
    config = parse_config(f"[web]\nport = {port}", "test").web
    sockets = open_sockets(config)
    assert [one.getsockname() for one in sockets] == [("127.0.0.1", port)]
    with pytest.raises(WebError, match=rf"127\.0\.0\.1:{port} can't be served \(Address already in use\)"):
        open_sockets(config)
    sockets[0].close()


@pytest.mark.parametrize(
    ("wish", "says"),
    [("nonsense", "no address"), (":80", "no address"), ("127.0.0.1:99999", "no address"), ("192.0.2.1:8730", "can't be served")],
)
def test_a_mistake_in_the_address_is_one_line(wish: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["web", "--listen", wish]) == 2
    found = capsys.readouterr().err
    assert says in found and found.count("\n") == 1


def test_an_interface_that_is_not_there_is_one_line() -> None:
    with pytest.raises(WebError, match="there is no network interface 'wlan77'"):
        open_sockets(parse_config(f'[web]\nport = {free_port()}\ninterface = "wlan77"', "test").web)
