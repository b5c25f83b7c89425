"""Who may use the page: whoever knows the token, from a page of this pedal's own, under an address of this pedal's own.

    token     traded for a cookie, once (appliance/web/token.py)
    Host      the address that the connection came in at, or a name that the configuration gives: a stranger's name that was pointed
              here (DNS rebinding) is refused
    Origin    whatever changes something must say that it comes from this very page: browsers say it, other sites can't

Runs in: `ghostnote web`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from appliance.web.token import Token

COOKIE = "ghostnote"
LOGIN = "/api/login"
READING = ("GET", "HEAD")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Every request passes here first, and every answer on its way back."""

    def __init__(self, app: ASGIApp, token: Token, names: frozenset[str]) -> None:
        self.app, self.token, self.names = app, token, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((name.encode(), text.encode()) for name, text in HEADERS.items())]
            await send(message)

        if scope["type"] != "http":
            raise RuntimeError(f"nothing but HTTP is served here, not {scope['type']}")
        refused = self.refusal(HTTPConnection(scope), scope["method"])
        await (refused or self.app)(scope, receive, with_headers)

    def refusal(self, asked: HTTPConnection, method: str) -> JSONResponse | None:
        """None where the request may go on."""
        path, cookie = asked.url.path, asked.cookies.get(COOKIE, "")
        if not self._own_host(asked):
            return refuse(421, "this pedal is not called that: use the address that `ghostnote web token` shows")
        if not self._own_page(asked, method):
            return refuse(403, "another site asks: only the pedal's own page may")
        if path.startswith("/api/") and path != LOGIN and not self.token.is_cookie(cookie):
            return refuse(401, "the token is missing or wrong: `ghostnote web token` shows it")
        return None

    def _own_host(self, asked: HTTPConnection) -> bool:
        name, here = _host_name(asked.headers.get("host", "")), (asked.scope.get("server") or ("",))[0]
        if name in self.names or name == here:
            return True
        return name == "localhost" and _is_loopback(here)

    def _own_page(self, asked: HTTPConnection, method: str) -> bool:
        """A browser says where a request comes from, if not by `Sec-Fetch-Site` then by `Origin`. The bare page may be opened from
        anywhere: it knows nothing until the token is given."""
        site, origin = asked.headers.get("sec-fetch-site"), asked.headers.get("origin")
        if method not in READING:
            return origin == f"http://{asked.headers['host']}" and site in (None, "same-origin")
        return site in (None, "same-origin", "none") or not asked.url.path.startswith("/api/")


def refuse(status: int, line: str) -> JSONResponse:
    return JSONResponse({"line": line}, status)


def _host_name(host: str) -> str:
    """Without its port, as the address itself: `[::1]:80` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
