"""A bundle: one engine as one file that can be checked, shared and opened. No runtime is imported until an engine is opened.

A bundle (suffix .ghost) is a container of stored files: `manifest.json` first, then its signature if it has one, then the files that the
manifest lists with their size and SHA-256. Nothing is ever extracted to disk; each file is read into memory and checked against its hash at
that moment. What a device compiles from a bundle is kept elsewhere. The format: docs/bundle-format.md.

Runs in: any process; `open_engine` in the worker process only.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.container import BundleError as BundleError
from engines.container import Container, Member, open_file, write_container
from engines.engine import Engine, EngineSpec
from engines.manifest import MANIFEST, MAX_MANIFEST_BYTES, FileEntry, Manifest, manifest_bytes, parse_manifest, role_of
from engines.prompts import PromptShelf
from engines.strict_json import StrictJsonError, decode

SUFFIX = ".ghost"
REFERENCE = Path(__file__).parent / "bundles" / f"reference{SUFFIX}"  # what plays when no other engine is named
ECHO = "echo"  # address of the engine that answers with what it hears
SIGNATURE = MANIFEST + ".minisig"
MAX_SIGNATURE_BYTES = 4096


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `read` is the only way to a file in it, and checks the file."""

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of manifest.json as it stands in the file, hex: what this engine is called wherever it matters which one it is
    manifest_bytes: bytes  # what is signed
    signature: bytes | None  # manifest.json.minisig as it stands in the file
    members: Mapping[str, Member]

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Read the manifest and check that the bundle holds exactly the files that it lists. Raises BundleError."""
        path = Path(path)
        with _container(path) as container:
            data = container.read(container.take(MAX_MANIFEST_BYTES, MANIFEST))
            signature = None
            if container.next_is(SIGNATURE):
                signature = container.read(container.take(MAX_SIGNATURE_BYTES, SIGNATURE))
            manifest = parse_manifest(path, data)
            for entry in manifest.files:
                container.take(entry.role.most_bytes, entry.path, entry.size)
            members = container.finish()
        bundle = cls(path, manifest, hashlib.sha256(data).hexdigest(), data, signature, {one.name: one for one in members})
        for name, held in ((MANIFEST, data), (SIGNATURE, signature or b"")):
            if name in bundle.members and zlib.crc32(held) != bundle.members[name].crc:
                raise bundle.damaged(name)
        return bundle

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`. Raises BundleError if they are not those that were packed."""
        entry = self.entry(name)
        with _container(self.path) as container:
            data = container.read(self.members[name])
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise self.damaged(name)
        return data

    def chunks(self, name: str) -> Iterator[bytes]:
        """The same, piece by piece; only behind the last one is it known whether they are those that were packed."""
        entry, crc, digest = self.entry(name), 0, hashlib.sha256()
        with _container(self.path) as container:
            for chunk in container.chunks(self.members[name]):
                crc = zlib.crc32(chunk, crc)
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != entry.sha256 or crc != self.members[name].crc:
            raise self.damaged(name)

    def part(self, name: str, offset: int, size: int) -> bytes:
        """Some of the file `name`, unchecked: for whoever has just seen all of it pass through `chunks`."""
        member = self.members[self.entry(name).path]
        assert min(offset, size) >= 0 and offset + size <= member.size
        with _container(self.path) as container:
            return container.read(Member(name, size, 0, member.offset + offset))

    def verify(self) -> None:
        """Check every byte. Raises BundleError with the first thing that is wrong."""
        for entry in self.manifest.files:
            for _ in self.chunks(entry.path):
                pass

    def json(self, name: str) -> Any:
        try:
            return decode(self.read(name))
        except StrictJsonError as wrong:
            raise BundleError(f"{self.path}: file {name!r} in it is damaged ({wrong}); get the bundle again") from None

    def has(self, name: str) -> bool:
        return any(entry.path == name for entry in self.manifest.files)

    def entry(self, name: str) -> FileEntry:
        entry = next((entry for entry in self.manifest.files if entry.path == name), None)
        if entry is None:
            raise BundleError(f"{self.path}: has no file {name!r}; pack the bundle again")
        return entry

    def damaged(self, name: str) -> BundleError:
        return BundleError(f"{self.path}: file {name!r} in it is damaged (its hash is wrong); get the bundle again")


def read_manifest(path: Path | str) -> Manifest:
    """What the bundle at `path` says of itself, without reading its weights."""
    return Bundle.open(path).manifest


def verify(path: Path | str) -> Manifest:
    """Check every byte of a bundle. Raises BundleError with the first thing that is wrong."""
    bundle = Bundle.open(path)
    bundle.verify()
    return bundle.manifest


def locate(address: str) -> Path:
    """The file that an engine address names; none names the reference engine."""
    return Path(address).expanduser() if address not in ("", "reference") else REFERENCE


def digest_of(address: str) -> str:
    """What the engine at `address` is called; "echo" is called that. Raises BundleError."""
    return ECHO if address == ECHO else Bundle.open(locate(address)).digest


def read_spec(address: str, prompts: str = "") -> EngineSpec:
    """What the appliance must know of the engine at `address`, without loading it; `prompts` as for `open_engine`."""
    if address == ECHO:
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
    if address == ECHO:
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


def write_bundle(path: Path | str, manifest: Mapping[str, Any], files: Mapping[str, bytes], signature: bytes | None = None) -> Manifest:
    """Write `files` and `manifest` (without schema and files, which are added here). All or nothing; same input, same bytes."""
    path = Path(path)
    entries = [_listed(path, name, data) for name, data in sorted(files.items())]
    data = manifest_bytes(path, manifest, entries)
    signed = [(SIGNATURE, signature)] if signature is not None else []
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as raw:
            write_container(raw, [(MANIFEST, data), *signed, *sorted(files.items())])
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return parse_manifest(path, data)


def _listed(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        role = role_of(name)
    except ValueError as wrong:
        raise BundleError(f"{path}: {wrong}") from None
    return {"path": name, "role": role.value, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


@contextmanager
def _container(path: Path) -> Iterator[Container]:
    file = open_file(path)
    try:
        yield Container(path, file)
    except OSError as error:
        raise BundleError(f"{path}: can't be read ({error.strerror or error}); get it again") from None
    finally:
        file.close()
