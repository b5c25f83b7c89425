"""A bundle: one engine as one file that can be checked, shared and opened. No runtime is imported until an engine is opened.

A bundle (suffix .ghost) is a zip file without compression: `manifest.json` first, then the files that it lists with their size and
SHA-256. Nothing is ever extracted to disk; each file is read into memory and checked against its hash at that moment. Graphs and
weights only: what a device compiles from them is kept elsewhere.

    {"schema": 1, "kind": "lmdm", "name": ..., "release": ..., "created": ..., "licences": [...],
     "engine": {the fields of EngineSpec}, "files": [{"path": ..., "sha256": ..., "size": ...}, ...]}

Runs in: any process; `open_engine` in the worker process only.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from engines.engine import Engine, EngineSpec
from engines.prompts import PromptShelf

SCHEMA = 1
SUFFIX = ".ghost"
REFERENCE = Path(__file__).parent / "bundles" / f"reference{SUFFIX}"  # what plays when no other engine is named
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same bundle, whenever it is written
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)


class BundleError(Exception):
    """A bundle that can't be used: one line that names it, what is wrong, and what to do."""


@dataclass(frozen=True)
class FileEntry:
    """One file in a bundle."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself."""

    kind: str
    name: str
    release: str
    created: str
    licences: tuple[str, ...]
    spec: EngineSpec
    files: tuple[FileEntry, ...]
    facts: Mapping[str, Any]  # the whole of manifest.json, for what only the engine itself needs


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `read` is the only way to a file in it, and checks the file."""

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of manifest.json as it stands in the file, hex: what this engine is called wherever it matters which one it is

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Read the manifest and check that the bundle holds exactly the files that it lists. Raises BundleError."""
        path = Path(path)
        with _zip(path) as archive:
            data = _read_manifest(path, archive)
            manifest = _manifest(path, _parsed(path, data))
            _check_members(path, archive, manifest.files)
        return cls(path, manifest, hashlib.sha256(data).hexdigest())

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`. Raises BundleError if they are not those that were packed."""
        entry = next((entry for entry in self.manifest.files if entry.path == name), None)
        if entry is None:
            raise BundleError(f"{self.path}: has no file {name!r}; pack the bundle again")
        try:
            with _zip(self.path) as archive:
                data = archive.read(name)
        except _UNREADABLE:
            data = b""
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(f"{self.path}: file {name!r} in it is damaged (its hash is wrong); get the bundle again")
        return data

    def json(self, name: str) -> Any:
        return json.loads(self.read(name))


def read_manifest(path: Path | str) -> Manifest:
    """What the bundle at `path` says of itself, without reading its weights."""
    return Bundle.open(path).manifest


def verify(path: Path | str) -> Manifest:
    """Check every byte of a bundle. Raises BundleError with the first thing that is wrong."""
    bundle = Bundle.open(path)
    for entry in bundle.manifest.files:
        bundle.read(entry.path)
    return bundle.manifest


def locate(address: str) -> Path:
    """The file that an engine address names; none names the reference engine."""
    return Path(address).expanduser() if address not in ("", "reference") else REFERENCE


def read_spec(address: str, prompts: str = "") -> EngineSpec:
    """What the appliance must know of the engine at `address`, without loading it; `prompts` as for `open_engine`."""
    if address == "echo":
        return open_engine(address).spec
    manifest = read_manifest(locate(address))
    own = PromptShelf.open(prompts) if manifest.kind == "lmdm" else PromptShelf()
    config = manifest.facts.get("model", {}).get("config", {})
    words = own.fitting(config.get("text_tokens", 0), config.get("text_channels", 0)).words
    return replace(manifest.spec, prompts=manifest.spec.prompts + words)


def open_engine(address: str, threads: int = 1, backend: str = "onnxruntime", prompts: str = "") -> Engine:
    """Load the engine at `address`: "echo", or a bundle's path ("" is the reference engine). Only here is a runtime imported.

    `prompts` is a folder of the player's own prompts (engines.prompts); they come behind those of the bundle.
    `backend` is one of engines.backends; a set is played on "auto", what must give the same bits anywhere is not.
    """
    if address == "echo":
        from engines.echo import EchoEngine

        return EchoEngine()
    bundle = Bundle.open(locate(address))
    if bundle.manifest.kind == "lmdm":
        from engines.backend import BackendError
        from engines.lmdm.stream import StreamingEngine

        try:
            return StreamingEngine.open(bundle, threads, backend, PromptShelf.open(prompts))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"{bundle.path}: was packed for another version of its engine ({error!r}); pack it again") from error
        except BackendError as error:
            raise BundleError(f"{bundle.path}: no runtime can open it: {error}") from error
    raise BundleError(f"{bundle.path}: engines of kind {bundle.manifest.kind!r} are unknown here; update Ghostnote")


def write_bundle(path: Path | str, manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Manifest:
    """Write `files` and `manifest` (without schema and files, which are added here). All or nothing; same input, same bytes."""
    path = Path(path)
    entries = [{"path": name, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in sorted(files.items())]
    facts = {"schema": SCHEMA, **manifest, "files": entries}
    checked = _manifest(path, facts)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
            _store(archive, MANIFEST, json.dumps(facts, indent=1, ensure_ascii=False).encode())
            for name in sorted(files):
                _store(archive, name, files[name])
            archive.close()
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return checked


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)


@contextmanager
def _zip(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise BundleError(f"{path}: no bundle can be read there ({error.strerror or error})") from None
    except _UNREADABLE:
        begins_well = path.open("rb").read(4) == b"PK\x03\x04"
        wrong = "is cut short or damaged; get it again" if begins_well else "is not a bundle"
        raise BundleError(f"{path}: {wrong}") from None
    with archive:
        yield archive


def _read_manifest(path: Path, archive: zipfile.ZipFile) -> bytes:
    members = archive.infolist()
    if not members or members[0].filename != MANIFEST:
        raise BundleError(f"{path}: is not a bundle (it does not begin with {MANIFEST})")
    if members[0].compress_type != zipfile.ZIP_STORED or members[0].file_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path}: {MANIFEST} is too large or compressed; pack the bundle again")
    try:
        return archive.read(MANIFEST)
    except _UNREADABLE:
        raise BundleError(f"{path}: {MANIFEST} is damaged; get the bundle again") from None


def _parsed(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (*_UNREADABLE, RecursionError):
        raise BundleError(f"{path}: {MANIFEST} is damaged; get the bundle again") from None


def _manifest(path: Path, facts: Any) -> Manifest:
    """Parse and check. What is missing or of the wrong type is named."""
    if not isinstance(facts, dict) or "schema" not in facts:
        raise BundleError(f"{path}: {MANIFEST} names no schema: not a bundle")
    if facts["schema"] != SCHEMA:
        raise BundleError(f"{path}: schema {facts['schema']!r} is unknown (this Ghostnote reads {SCHEMA}); update Ghostnote or the bundle")
    try:
        files = tuple(FileEntry(str(f["path"]), str(f["sha256"]), int(f["size"])) for f in facts["files"])
        texts = {name: str(facts[name]) for name in ("kind", "name", "release", "created")}
        manifest = Manifest(**texts, licences=tuple(facts["licences"]), spec=_spec(facts["engine"]), files=files, facts=facts)
    except KeyError as missing:
        raise BundleError(f"{path}: {MANIFEST} lacks {missing.args[0]!r}; pack the bundle again") from None
    except (TypeError, ValueError) as wrong:
        raise BundleError(f"{path}: {MANIFEST} is wrong ({wrong}); pack the bundle again") from None
    for entry in files:
        _check_path(path, entry.path)
    return manifest


def _spec(facts: Any) -> EngineSpec:
    values = {field.name: facts[field.name] for field in fields(EngineSpec)}
    values["prompts"] = tuple(str(prompt) for prompt in values["prompts"])
    for name, value in values.items():
        if name not in ("name", "prompts") and (type(value) is not int or value < 0):
            raise ValueError(f"{name} is {value!r}, not a whole number")
    if not values["block_frames"] or not values["sample_rate"] or not values["prompts"]:
        raise ValueError("an engine needs a sample rate, a block and a prompt")
    return EngineSpec(**values)


def _check_path(path: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or name != "/".join(parts) or name == MANIFEST:
        raise BundleError(f"{path}: the file name {name!r} in it is not allowed; do not trust this bundle")


def _check_members(path: Path, archive: zipfile.ZipFile, files: tuple[FileEntry, ...]) -> None:
    """Exactly the listed files, once each, uncompressed, of the listed size."""
    listed = {entry.path: entry.size for entry in files}
    members = archive.infolist()[1:]
    held = {info.filename: info.file_size for info in members if info.compress_type == zipfile.ZIP_STORED}
    for name in [*listed, *(info.filename for info in members)]:
        if listed.get(name) != held.get(name):
            raise BundleError(f"{path}: file {name!r} is not as {MANIFEST} lists it; get the bundle again")
    if len(members) != len(listed):
        raise BundleError(f"{path}: holds a file twice; do not trust this bundle")
