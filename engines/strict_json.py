"""JSON with one reading only: no key twice, no NaN, no number that a double can't hold, no text that a terminal or a name would choke on.

`encode` gives the one form in which a manifest may stand in a bundle. Runs in: any process.
"""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

MAX_DEPTH = 16
MAX_WHOLE = 1 << 53


class StrictJsonError(ValueError):
    """What is wrong, without saying where."""


def encode(facts: Any) -> bytes:
    """Keys sorted, no spaces, UTF-8, one newline at the end."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decode(data: bytes) -> Any:
    """Raises StrictJsonError."""
    try:
        facts = json.loads(
            data.decode(), object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_whole, parse_float=_number
        )
    except StrictJsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise StrictJsonError(f"no JSON: {error}") from None
    check_texts(facts)
    return facts


def decode_canonical(data: bytes) -> Any:
    """As `decode`, and it has to stand as `encode` writes it. Raises StrictJsonError."""
    facts = decode(data)
    if encode(facts) != data:
        raise StrictJsonError("not in canonical form")
    return facts


def check_texts(facts: Any, depth: int = 0) -> None:
    """Every key and text can be printed and compared, and nothing is nested deeply. Raises StrictJsonError."""
    if depth > MAX_DEPTH:
        raise StrictJsonError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(facts, str) and not (facts.isprintable() and unicodedata.is_normalized("NFC", facts)):
        raise StrictJsonError(f"a text that can't be shown: {facts[:40]!a}")
    if isinstance(facts, dict):
        for key, value in facts.items():
            check_texts(key, depth + 1)
            check_texts(value, depth + 1)
    elif isinstance(facts, list):
        for value in facts:
            check_texts(value, depth + 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StrictJsonError("a key stands there twice")
    return found


def _no_constant(text: str) -> Any:
    raise StrictJsonError(f"{text} is no number")


def _whole(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_WHOLE:
        raise StrictJsonError(f"the number {text[:20]} is too large")
    return int(text)


def _number(text: str) -> float:
    if len(text) > 32 or not math.isfinite(float(text)):
        raise StrictJsonError(f"the number {text[:20]} is too large")
    return float(text)
