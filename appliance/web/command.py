"""`ghostnote web` and `ghostnote web token`: the local page, in a process of its own beside the pedal.

Runs in: `ghostnote web`, which is nice, has no access to the pedal's memory, and may be stopped at any time.
"""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console

from appliance.config import Config, load_config
from appliance.storage import state_folder
from appliance.web.listen import ANY, WebError, addresses, interface_address, open_sockets
from appliance.web.token import Token, token_folder

if TYPE_CHECKING:
    import uvicorn

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
NICENESS = 10
MOST_CONNECTIONS = 32
MOST_HEADER_BYTES = 32_768
STOP_SECONDS = 2


def add_web(commands: Commands, out: Console) -> None:
    """The command, for the parser of `ghostnote`."""
    one = commands.add_parser("web", help="a local page: levels, presets, engines; `web token` shows its address and token")
    one.add_argument("--config", type=Path, metavar="FILE", help="the pedal's configuration")
    one.add_argument("--listen", default="", metavar="HOST:PORT", help="there only, whatever [web] says")
    one.set_defaults(command=lambda arguments: serve(_config(arguments), arguments.listen, out))
    token = one.add_subparsers(metavar="[token]").add_parser("token", help="the address of the page, with the token in it")
    token.add_argument("--new", action="store_true", help="make another: the old one and all who use it are shut out")
    token.set_defaults(command=lambda arguments: show_token(_config(arguments), arguments.new, out))


def show_token(config: Config, new: bool, out: Console) -> int:
    try:
        token = Token(token_folder())
        if new:
            token.renew()
        text = token.text
    except OSError as error:
        raise _no_token(error) from None
    for address in addresses(config.web):
        _say(out, f"http://{address}/#{text}")
    return 0


def serve(config: Config, listen: str, out: Console) -> int:
    """Until someone says stop. The token is shown to a terminal only: a journal is no place for it."""
    try:
        token = Token(token_folder())
        server = _server(config, token)
    except ImportError as error:
        raise WebError(f"the page needs {error.name}: pip install 'ghostnote[web]'") from None
    except OSError as error:
        raise _no_token(error) from None
    sockets = open_sockets(config.web, listen)
    if os.getpriority(os.PRIO_PROCESS, 0) < NICENESS:  # the service has it from its unit, and may not ask
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    for one in sockets:
        _say(out, f"http://{_address(one, config)}/" + (f"#{token.text}" if out.is_terminal else ""))
    server.run(sockets)
    return 0


def _server(config: Config, token: Token) -> uvicorn.Server:
    """Raises OSError, and ImportError where an extra of the package is not installed."""
    import uvicorn

    from appliance.inbox import inbox_of
    from appliance.web.app import page
    from appliance.web.live import Live
    from appliance.web.pedal import Pedal
    from appliance.web.upload import Inbox

    folder = state_folder(config.storage.folder)
    pedal, inbox = Pedal(folder), Inbox(inbox_of(folder / "engines"), round(config.web.upload_mb * 1e6))
    inbox.sweep()
    live, names = Live(pedal.status), frozenset(config.web.names.lower().split())
    settings = uvicorn.Config(
        page(pedal, inbox, live, token, names),
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = uvicorn.Server(settings)
    live.over = lambda: server.should_exit
    return server


def _config(arguments: argparse.Namespace) -> Config:
    return load_config(arguments.config) if arguments.config else Config()


def _address(one: socket.socket, config: Config) -> str:
    host, port = one.getsockname()[:2]
    if host == ANY and config.web.interface:
        host = interface_address(config.web.interface) or config.web.interface
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _no_token(error: OSError) -> WebError:
    return WebError(f"{error.filename or token_folder()} can't be used ({error.strerror}): run it as the user that the page runs as")


def _say(out: Console, line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)
