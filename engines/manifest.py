"""What a bundle says of itself: `manifest.json`, the one part of a bundle that is signed, and so holds a hash of every other.

It is canonical JSON (engines.strict_json); what each field means stands in docs/bundle-format.md. What a file is for follows from where it
lies, and is said in the manifest too, so that a reader need not know the rule. Runs in: any process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

from engines.container import MAX_FILES, MAX_NAME_BYTES, BundleError
from engines.engine import EngineControls, EngineSpec
from engines.strict_json import StrictJsonError, decode_canonical, encode

SCHEMA = 2
VERSION = "0.1.0"  # of Ghostnote, as in pyproject.toml
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
WEIGHTS_FILE, PROMPTS_FILE, GOLDEN_FILE, PRESETS_FILE = "weights.safetensors", "prompts.safetensors", "golden.json", "presets.json"
LICENCE_FOLDER, GRAPH_SUFFIX = "licences/", ".onnx"
_PATH = re.compile(r"(?:[a-z0-9_-][a-z0-9_.-]*/)?[a-z0-9_-][a-z0-9_.-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_LIMITS = {
    "sample_rate": (8_000, 192_000),
    "block_frames": (16, 1 << 20),
    "codec_delay_frames": (0, 1 << 20),
    "steps": (0, 64),
    "max_steps": (0, 64),
}
CURVES = ("linear", "choice", "switch")
MAX_PROMPTS, MAX_WORDS, MAX_MEMORY_BYTES = 1_000, 200, 1 << 40


class Role(str, Enum):
    """What a file in a bundle is for, and how large it may be."""

    GRAPH = "graph"
    WEIGHTS = "weights"
    PROMPTS = "prompts"
    GOLDEN = "golden"
    PRESETS = "presets"
    LICENCE = "licence"

    @property
    def most_bytes(self) -> int:
        return {Role.GRAPH: 8 << 20, Role.WEIGHTS: (1 << 31) - 1, Role.PROMPTS: 64 << 20}.get(self, 1 << 20)


_SINGLE = {WEIGHTS_FILE: Role.WEIGHTS, PROMPTS_FILE: Role.PROMPTS, GOLDEN_FILE: Role.GOLDEN, PRESETS_FILE: Role.PRESETS}


def role_of(path: str) -> Role:
    """Raises ValueError for a name that no file of a bundle has."""
    if not _PATH.fullmatch(path) or len(path) > MAX_NAME_BYTES:
        raise ValueError(f"the file name {path!r} in it is not allowed; do not trust this bundle")
    if path in _SINGLE:
        return _SINGLE[path]
    if path.endswith(GRAPH_SUFFIX):
        return Role.GRAPH
    if path.startswith(LICENCE_FOLDER):
        return Role.LICENCE
    raise ValueError(f"nobody knows what the file {path!r} in it is for; leave it out, or update Ghostnote")


@dataclass(frozen=True)
class FileEntry:
    """One file in a bundle."""

    path: str
    sha256: str
    size: int
    role: Role


@dataclass(frozen=True)
class Licence:
    """Whose work is in a bundle, and on which terms."""

    covers: str
    name: str
    file: str  # its text, in the bundle


@dataclass(frozen=True)
class Manifest:
    """A manifest that has been checked."""

    kind: str
    name: str
    number: int  # of the release: a pedal goes back to a lower one only when it is told to
    release: str  # of the same release, for people
    created: str
    author: str
    memory_bytes: int  # the most that a worker with this engine has needed; 0: nobody has measured
    licences: tuple[Licence, ...]
    golden_tolerance: float
    spec: EngineSpec
    files: tuple[FileEntry, ...]
    facts: Mapping[str, Any]  # the whole of manifest.json, for what only the engine itself needs

    @property
    def head(self) -> dict[str, Any]:
        """All but what `manifest_bytes` adds: to pack the same engine again."""
        return {key: value for key, value in self.facts.items() if key not in ("schema", "files")}


def head(kind: str, spec: EngineSpec, **more: Any) -> dict[str, Any]:
    """A manifest without its files: what every bundle says, with values for those who have nothing to say."""
    common = {
        "kind": kind, "name": spec.name, "number": 0, "release": "0", "created": "", "author": "", "requires": VERSION,
        "memory_bytes": 0, "licences": [], "audio": {"channels": 1, "peak": 1}, "controls": _controls(spec), "golden_tolerance": 1e-4,
        "engine": asdict(spec),
    }  # fmt: skip
    assert not set(more) & {"schema", "files", "engine"}
    return {**common, **more}


def _controls(spec: EngineSpec) -> list[dict[str, Any]]:
    """Range, curve and default of everything that an engine is told for a block; all of it is heard from the next block on."""
    last = {"prompt": len(spec.prompts) - 1, "second_prompt": len(spec.prompts) - 1, "steps": spec.max_steps}
    found = []
    for one in fields(EngineControls):
        default = getattr(EngineControls(), one.name)
        curve = "choice" if type(default) is int else "switch" if type(default) is bool else "linear"
        high = last.get(one.name, 1)
        found.append({"name": one.name, "low": 0, "high": high, "default": int(default), "curve": curve, "takes_effect": "next block"})
    return found


def manifest_bytes(path: Path, facts: Mapping[str, Any], entries: list[dict[str, Any]]) -> bytes:
    """manifest.json of `facts` (without schema and files) and these files. Raises BundleError."""
    try:
        data = encode({"schema": SCHEMA, **facts, "files": entries})
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path}: {MANIFEST} can't be written ({error})") from None
    parse_manifest(path, data)
    return data


def parse_manifest(path: Path, data: bytes) -> Manifest:
    """Parse and check; what is missing or wrong is named. Raises BundleError."""
    try:
        facts = decode_canonical(data)
    except StrictJsonError as wrong:
        raise BundleError(f"{path}: {MANIFEST} is damaged or of an older kind ({wrong}); get the bundle again") from None
    if not isinstance(facts, dict) or "schema" not in facts:
        raise BundleError(f"{path}: {MANIFEST} names no schema: not a bundle")
    if facts["schema"] != SCHEMA:
        unknown = f"schema {_short(facts['schema'])} is unknown (this Ghostnote reads {SCHEMA})"
        raise BundleError(f"{path}: {unknown}; update Ghostnote or the bundle")
    try:
        return _manifest(facts)
    except KeyError as missing:
        raise BundleError(f"{path}: {MANIFEST} lacks {missing.args[0]!r}; pack the bundle again") from None
    except (TypeError, AttributeError) as wrong:
        raise BundleError(f"{path}: {MANIFEST} is wrong ({wrong}); pack the bundle again") from None
    except ValueError as wrong:
        raise BundleError(f"{path}: {wrong}") from None


def _manifest(facts: dict[str, Any]) -> Manifest:
    _check_version(_text(facts, "requires"))
    files = tuple(_entry(one) for one in _list(facts, "files", MAX_FILES))
    if [one.path for one in files] != sorted({one.path for one in files}):
        raise ValueError(f"{MANIFEST} lists a file twice, or not in order; do not trust this bundle")
    name, kind = _text(facts, "name"), _text(facts, "kind")
    if not _NAME.fullmatch(name) or not _NAME.fullmatch(kind):
        raise ValueError(f"{MANIFEST} is wrong (name {name!r}, kind {kind!r}: 1 to 64 letters, digits, spaces, .-_); pack the bundle again")
    if facts["audio"] != {"channels": 1, "peak": 1}:
        raise ValueError(f"its audio is {_short(facts['audio'])}; this Ghostnote plays one channel with peaks at 1: update it")
    if _text(facts["engine"], "name") != name:
        raise ValueError(f"it is called {name!r} and its engine {facts['engine']['name']!r}; pack the bundle again")
    licences = tuple(Licence(_text(one, "covers"), _text(one, "name"), _text(one, "file")) for one in _list(facts, "licences", 64))
    for one in licences:
        if one.file not in {entry.path for entry in files}:
            raise ValueError(f"the licence {one.file!r} is not in it; pack the bundle again")
    _check_controls(_list(facts, "controls", 64))
    return Manifest(
        kind, name, _whole(facts, "number", 0, 1 << 31), _text(facts, "release"), _text(facts, "created"), _text(facts, "author"),
        _whole(facts, "memory_bytes", 0, MAX_MEMORY_BYTES), licences, _tolerance(facts["golden_tolerance"]), _spec(facts["engine"]), files,
        facts,
    )  # fmt: skip


def _entry(facts: Any) -> FileEntry:
    path = _text(facts, "path")
    role, sha256 = role_of(path), _text(facts, "sha256")
    if facts["role"] != role.value:
        raise ValueError(f"file {path!r} is said to be {_short(facts['role'])}, but is {role.value!r}; pack the bundle again")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"the hash of file {path!r} is no SHA-256; pack the bundle again")
    size = _whole(facts, "size", 0, 1 << 40)
    if size > role.most_bytes:
        raise ValueError(f"file {path!r} has {size} bytes, more than {role.most_bytes} are not allowed")
    return FileEntry(path, sha256, size, role)


def _spec(facts: Any) -> EngineSpec:
    values = {name: _whole(facts, name, *limits) for name, limits in _LIMITS.items()}
    prompts = _list(facts, "prompts", MAX_PROMPTS)
    if not prompts or not all(isinstance(one, str) and 0 < len(one) <= MAX_WORDS for one in prompts):
        raise ValueError(f"an engine needs a prompt, and of each 1 to {MAX_WORDS} letters; pack the bundle again")
    if values["steps"] > values["max_steps"]:
        raise ValueError(f"its {values['steps']} steps are more than its {values['max_steps']}; pack the bundle again")
    return EngineSpec(name=_text(facts, "name"), prompts=tuple(prompts), **values)


def _check_controls(controls: list[Any]) -> None:
    known = {one.name for one in fields(EngineControls)}
    for one in controls:
        if _text(one, "name") not in known:
            raise ValueError(f"control {one['name']!r} is unknown to this Ghostnote; update it")
        low, high = _whole(one, "low", -MAX_PROMPTS, MAX_PROMPTS), _whole(one, "high", -MAX_PROMPTS, MAX_PROMPTS)
        _whole(one, "default", low, high)
        if _text(one, "curve") not in CURVES or _text(one, "takes_effect") != "next block":
            raise ValueError(f"control {one['name']!r} has a curve or a time that is unknown to this Ghostnote; update it")


def _check_version(needed: str) -> None:
    if not re.fullmatch(r"\d{1,4}\.\d{1,4}\.\d{1,4}", needed):
        raise ValueError(f"it requires Ghostnote {needed!r}, which is no version; pack the bundle again")
    if tuple(map(int, needed.split("."))) > tuple(map(int, VERSION.split("."))):
        raise ValueError(f"it requires Ghostnote {needed}, this is {VERSION}; update Ghostnote")


def _short(value: Any) -> str:
    return repr(value)[:40]


def _text(facts: Any, name: str) -> str:
    value = facts[name]
    if type(value) is not str or len(value) > MAX_WORDS:
        raise TypeError(f"{name} is {_short(value)}, not a text of at most {MAX_WORDS} letters")
    return value


def _whole(facts: Any, name: str, low: int, high: int) -> int:
    value = facts[name]
    if type(value) is not int or not low <= value <= high:
        raise TypeError(f"{name} is {_short(value)}, not a whole number from {low} to {high}")
    return value


def _list(facts: Any, name: str, most: int) -> list[Any]:
    value = facts[name]
    if type(value) is not list or len(value) > most:
        raise TypeError(f"{name} is no list of at most {most}")
    return value


def _tolerance(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= 1:
        raise TypeError(f"golden_tolerance is {_short(value)}, not a number above 0 and up to 1")
    return float(value)
