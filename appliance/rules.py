"""What a key of a TOML file may hold, and the reader of a table of such keys: shared by the configuration and by presets.

A table is a frozen dataclass whose fields are made here:  mix: float = number(0.5, 0.0, 1.0).  What does not fit ends in ConfigError:
one line that names the file, the key, the value and what is allowed.

Runs in: the main process.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(Exception):
    """A configuration that can't be used: one line that says what is wrong and what is allowed."""


@dataclass(frozen=True)
class Rule:
    """What one key allows."""

    kinds: tuple[type, ...]
    says: str  # completes "must be ..."
    low: float = 0.0
    high: float = 0.0
    options: tuple[str, ...] = ()

    def accepts(self, value: object) -> bool:
        if type(value) not in self.kinds:
            return False
        if isinstance(value, str):
            return not self.options or value in self.options
        return isinstance(value, bool) or (isinstance(value, (int, float)) and self.low <= value <= self.high)


def whole(default: int, low: int, high: int) -> Any:
    return field(default=default, metadata={"rule": Rule((int,), f"a whole number from {low} to {high}", low, high)})


def number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"rule": Rule((int, float), f"a number from {low:g} to {high:g}", low, high)})


def switch(default: bool) -> Any:
    return field(default=default, metadata={"rule": Rule((bool,), "true or false")})


def text(default: str, says: str) -> Any:
    return field(default=default, metadata={"rule": Rule((str,), f"a text: {says}")})


def choice(default: str, *options: str) -> Any:
    return field(default=default, metadata={"rule": Rule((str,), "one of " + ", ".join(map(repr, options)), options=options)})


def rules_of(kind: type) -> dict[str, Rule]:
    """The keys of a table and what each allows."""
    return {one.name: one.metadata["rule"] for one in fields(kind)}


def read_toml(source: str, origin: str) -> dict[str, Any]:
    """`source` as TOML; `origin` names it in errors. Raises ConfigError."""
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin}: is not TOML: {error}") from None


def read_table(origin: str, table: str, kind: type, values: object) -> Any:
    """`values` as a `kind`, every key checked. Raises ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{origin}: {table} = {values!r} must be a table: write [{table}] and its keys below")
    rules = rules_of(kind)
    check_names(origin, f"key in [{table}]", values, list(rules), lambda name: name)
    for key, value in values.items():
        if not rules[key].accepts(value):
            raise ConfigError(f"{origin}: [{table}] {key} = {_toml(value)} is not allowed: must be {rules[key].says}")
    return kind(**{key: float(value) if float in rules[key].kinds else value for key, value in values.items()})


def check_names(origin: str, what: str, given: Mapping[str, object], known: list[str], show: Any) -> None:
    """Every name is known, or the nearest one is suggested. Raises ConfigError."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {show(near[0])}?" if near else f"allowed: {', '.join(map(show, known))}"
            raise ConfigError(f"{origin}: unknown {what}: {show(name)}; {hint}")


def _toml(value: object) -> str:
    """As it stands in the file, near enough to be found."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)
