"""The token: what one must know to use the page. Made on first use; `ghostnote web token` shows it.

The page trades it for a cookie, which is derived from it, so that a new token ends every session. Compared in constant time.

Runs in: `ghostnote web` and `ghostnote web token`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path

LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # none that looks like another
GROUPS, GROUP_LETTERS = 4, 6  # 24 letters of 31: 118 bits


def token_folder() -> Path:
    """Of the service's own user, or of whoever runs the page."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ghostnote-web"


class Token:
    """The file that holds it, readable by its owner only. It is read at each question: a new token counts at once."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError."""
        self.path = folder / "token"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.path.exists():
            self._keep(_new(), os.link)

    def renew(self) -> None:
        """The old one is worth nothing from now on. Raises OSError."""
        self._keep(_new(), os.replace)

    @property
    def text(self) -> str:
        return self.path.read_text("ascii").strip()

    def is_text(self, given: str) -> bool:
        return hmac.compare_digest(given.strip().lower().encode(), self.text.encode())

    @property
    def cookie(self) -> str:
        return hmac.new(self.text.encode(), b"cookie", hashlib.sha256).hexdigest()

    def is_cookie(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.cookie.encode())

    def _keep(self, text: str, place: Callable[[Path, Path], None]) -> None:
        """Whole or not at all, also where two begin at the same moment: `os.link` leaves the one that was first."""
        unfinished = self.path.with_name(f".token.{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            place(unfinished, self.path)
        except FileExistsError:
            pass
        unfinished.unlink(missing_ok=True)


def _new() -> str:
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(GROUP_LETTERS)) for _ in range(GROUPS))
