"""The desk: where orders to the running pedal come in. Which there are is said by whoever carries them out.

Runs in: the main process, which calls `tick` every few milliseconds.
"""

from __future__ import annotations

import logging

from appliance.journal import about
from appliance.orders import SOCKET_NAME, Handlers, Orders
from appliance.status import runtime_folder

log = logging.getLogger("ghostnote")


class Desk:
    """Open in a run that keeps what it is told; nothing that goes wrong here stops the pedal."""

    def __init__(self, handlers: Handlers, is_open: bool) -> None:
        self.handlers, self._orders = handlers, self._opened() if is_open else None

    def tick(self) -> None:
        if self._orders:
            self._orders.serve(self.handlers)

    def close(self) -> None:
        if self._orders:
            self._orders.close()

    def _opened(self) -> Orders | None:
        try:
            return Orders(runtime_folder() / SOCKET_NAME)
        except OSError as error:
            log.warning("no orders are taken in this run (%s)", error.strerror, extra=about("orders"))
            return None
