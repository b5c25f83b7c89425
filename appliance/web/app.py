"""The routes: the page itself, and what it asks for. Whatever is refused is answered with a status and `{"line": why}`.

    GET  /                              the page and its two files; no token is needed for them, and they say nothing of the pedal
    POST /api/login                     the token for a cookie
    GET  /api/live                      server-sent events: what status.sock says, twice a second
    GET  /api/presets                   POST /api/presets/1.2/load     PUT /api/presets/1.2
    GET  /api/engines                   POST /api/engines/DIGEST/activate     POST /api/engines/rollback     GET /api/engines/task
                                        GET /api/engines/DIGEST/picture
    PUT  /api/inbox/NAME.ghost          a bundle, raw; streamed to the store's inbox     GET /api/inbox/NAME.ghost (what became of it)
    GET  /api/flights                   POST /api/flights (save one)   GET /api/flights/NAME

Runs in: `ghostnote web`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from appliance.web.guard import COOKIE, Guard, refuse
from appliance.web.live import Live
from appliance.web.pedal import Pedal, PedalError, preset_rules
from appliance.web.token import Token
from appliance.web.upload import Inbox, RefusedError

STATIC = Path(__file__).parent / "static"
MOST_BODY_BYTES = 16_384  # of anything but a bundle
Result = TypeVar("Result")


def page(pedal: Pedal, inbox: Inbox, live: Live, token: Token, names: frozenset[str]) -> ASGIApp:
    """The whole application, behind its guard."""
    routes = Routes(pedal, inbox, live, token)
    errors: Any = {RefusedError: _refused, PedalError: _pedal_refused, HTTPException: _not_there}
    return Guard(Starlette(routes=routes.table(), exception_handlers=errors), token, names)


class Routes:
    """One method per route."""

    def __init__(self, pedal: Pedal, inbox: Inbox, live: Live, token: Token) -> None:
        self.pedal, self.inbox, self.live, self.token = pedal, inbox, live, token

    def table(self) -> list[Any]:
        one: list[Any] = [
            Route("/", lambda _: FileResponse(STATIC / "index.html")),
            Route("/api/login", self.login, methods=["POST"]),
            Route("/api/live", self.follow),
            Route("/api/presets", self.presets),
            Route("/api/presets/{place}", self.save_preset, methods=["PUT"]),
            Route("/api/presets/{place}/load", self.load_preset, methods=["POST"]),
            Route("/api/inbox/{name}", self.upload, methods=["PUT"]),
            Route("/api/inbox/{name}", self.verdict),
            Route("/api/flights", self.flights),
            Route("/api/flights", self.save_flight, methods=["POST"]),
            Route("/api/flights/{name}", self.flight),
        ]
        return [*one, *self._engine_table(), Mount("/", StaticFiles(directory=STATIC))]

    def _engine_table(self) -> list[Any]:
        return [
            Route("/api/engines", self.engines),
            Route("/api/engines/rollback", self.roll_back, methods=["POST"]),
            Route("/api/engines/task", self.task),
            Route("/api/engines/{digest}/activate", self.activate, methods=["POST"]),
            Route("/api/engines/{digest}/picture", self.picture),
        ]

    async def engines(self, _: Request) -> Response:
        return JSONResponse({"engines": await _do(self.pedal.engines.all), "most_bytes": self.inbox.most_bytes})

    async def activate(self, request: Request) -> Response:
        return _line(await _do(lambda: self.pedal.activate(request.path_params["digest"])))

    async def roll_back(self, _: Request) -> Response:
        return _line(await _do(self.pedal.roll_back))

    async def task(self, _: Request) -> Response:
        return JSONResponse(await _do(self.pedal.task))

    async def picture(self, request: Request) -> Response:
        path = await _do(lambda: self.pedal.engines.picture(request.path_params["digest"]))
        return FileResponse(path) if path else refuse(404, "there is no picture of that certificate")

    async def login(self, request: Request) -> Response:
        given = await _json(request)
        if not self.token.is_text(str(given.get("token", ""))):
            return refuse(401, "that is not the token: `ghostnote web token` shows it")
        answer = JSONResponse({})
        answer.set_cookie(COOKIE, self.token.cookie, max_age=30 * 86_400, httponly=True, samesite="strict")
        return answer

    async def follow(self, request: Request) -> Response:
        if self.live.full:
            return refuse(503, "too many look at once: close another page")
        cookie = request.cookies.get(COOKIE, "")
        return StreamingResponse(self.live.events(lambda: self.token.is_cookie(cookie)), media_type="text/event-stream")

    async def presets(self, _: Request) -> Response:
        return JSONResponse({"presets": await _do(self.pedal.presets), "rules": preset_rules()})

    async def save_preset(self, request: Request) -> Response:
        place, wish = request.path_params["place"], await _json(request)
        return _line(await _do(lambda: self.pedal.save_preset(place, wish)))

    async def load_preset(self, request: Request) -> Response:
        return _line(await _do(lambda: self.pedal.load_preset(request.path_params["place"])))

    async def upload(self, request: Request) -> Response:
        length = request.headers.get("content-length", "")
        try:
            await self.inbox.take(request.path_params["name"], int(length) if length.isdecimal() else None, request.stream())
        except ClientDisconnect:
            return refuse(400, "it ended in the middle")
        return _line("on the pedal: the store looks at it")

    async def verdict(self, request: Request) -> Response:
        """What became of a bundle that was uploaded."""
        name = request.path_params["name"]
        if self.inbox.waits(name):
            return JSONResponse({"state": "waiting", "line": f"{name} waits for the store to look at it"})
        taken = await _do(lambda: self.pedal.engines.arrived(self.inbox.digests.get(name, "")))
        return JSONResponse({"state": "taken", "line": taken} if taken else {"state": "refused", "line": self.inbox.refusal(name)})

    async def flights(self, _: Request) -> Response:
        return JSONResponse({"flights": await _do(self.pedal.flights)})

    async def save_flight(self, _: Request) -> Response:
        return _line(await _do(self.pedal.save_flight))

    async def flight(self, request: Request) -> Response:
        path = await _do(lambda: self.pedal.flight(request.path_params["name"]))
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")


async def _json(request: Request) -> dict[str, Any]:
    """The body as an object, never more of it than is allowed. Raises RefusedError."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY_BYTES:
            raise RefusedError(413, "that is more than is ever needed")
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RefusedError(400, "that is no JSON object")
    return found


async def _do(what: Callable[[], Result]) -> Result:
    """On a thread: the pedal or a disk may let one wait."""
    return await to_thread.run_sync(what)


def _line(line: str) -> Response:
    return JSONResponse({"line": line})


def _refused(_: Request, error: RefusedError) -> Response:
    answer = refuse(error.status, str(error))
    answer.headers["connection"] = "close"  # the rest of a body that is too large is not waited for
    return answer


def _pedal_refused(_: Request, error: PedalError) -> Response:
    return refuse(409, str(error))


def _not_there(_: Request, error: HTTPException) -> Response:
    return refuse(error.status_code, "there is nothing of that name")
