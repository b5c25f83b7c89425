"""Bundles: what is written is what is read, and anything else is refused in one line."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bundle import Bundle, BundleError, open_engine, read_manifest, read_spec, verify, write_bundle
from engines.engine import EngineControls

ENGINE = {
    "name": "toy",
    "sample_rate": 44_100,
    "block_frames": 16_384,
    "codec_delay_frames": 1_024,
    "prompts": ["organ", "choir"],
    "steps": 4,
    "max_steps": 8,
}
MANIFEST: dict[str, Any] = {
    "kind": "lmdm",
    "name": "toy",
    "release": "1",
    "created": "2026-01-01",
    "licences": ["MIT"],
    "engine": ENGINE,
}
FILES = {"step.onnx": b"graph" * 999, "text/prompts.npy": b"\x00\x01" * 50, "empty.bin": b""}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "toy.ghost"
    write_bundle(path, MANIFEST, FILES)
    return path


def test_what_was_packed_is_read(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert {name: opened.read(name) for name in FILES} == FILES
    assert verify(bundle) == read_manifest(bundle) == opened.manifest
    assert read_spec(str(bundle)).prompts == ("organ", "choir")
    assert opened.manifest.facts["kind"] == "lmdm"


def test_the_manifest_is_first_and_nothing_is_compressed(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        members = archive.infolist()
    assert members[0].filename == "manifest.json"
    assert all(info.compress_type == zipfile.ZIP_STORED for info in members)


def test_same_input_same_bytes_and_nothing_left_behind(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.ghost"
    write_bundle(again, MANIFEST, dict(reversed(FILES.items())))
    assert again.read_bytes() == bundle.read_bytes()
    with pytest.raises(BundleError, match="not allowed"):
        write_bundle(tmp_path / "bad.ghost", MANIFEST, {"../up": b""})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.ghost", "toy.ghost"]


def test_every_single_flipped_byte_is_noticed(bundle: Path) -> None:
    good, noticed = bundle.read_bytes(), 0
    offsets = list(range(0, len(good), 61))
    for offset in offsets:
        data = bytearray(good)
        data[offset] ^= 0x55
        bundle.write_bytes(bytes(data))
        try:
            same = {name: Bundle.open(bundle).read(name) for name in FILES} == FILES
        except BundleError as error:
            assert "\n" not in str(error)
            noticed += 1
        else:
            assert same, f"byte {offset} changed a file unnoticed"
    assert noticed > len(offsets) // 2  # the rest are dates, permissions and licences, which no hash covers


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_bundle_is_refused(bundle: Path, share: float) -> None:
    data = bundle.read_bytes()
    bundle.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match=r"cut short|not a bundle"):
        verify(bundle)


def test_a_changed_file_is_named(bundle: Path) -> None:
    data = bundle.read_bytes()
    bundle.write_bytes(data.replace(b"graphgraph", b"graphgrapH", 1))
    with pytest.raises(BundleError, match=r"'step\.onnx'.*damaged"):
        verify(bundle)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"RIFF" + b"\0" * 100)
    with pytest.raises(BundleError, match=r"song\.wav: is not a bundle"):
        read_manifest(tmp_path / "song.wav")
    with pytest.raises(BundleError, match=r"absent\.ghost: no bundle can be read there"):
        open_engine(str(tmp_path / "absent.ghost"))
    with pytest.raises(BundleError, match="Is a directory"):
        read_manifest(tmp_path)


def zip_of(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with pytest.warns(UserWarning) if len(dict(members)) < len(members) else _nothing(), zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


class _nothing:  # noqa: N801
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def manifest(**changes: Any) -> bytes:
    return json.dumps({"schema": 1, **MANIFEST, "files": [], **changes}).encode()


ENTRY = {"path": "a", "sha256": "0" * 64, "size": 1}
REFUSED: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "other zip": ([("readme", b"")], "does not begin with manifest.json"),
    "newer schema": ([("manifest.json", manifest(schema=7))], "schema 7 is unknown"),
    "no json": ([("manifest.json", b"{")], "manifest.json is damaged"),
    "deep json": ([("manifest.json", b"[" * 100_000)], "manifest.json is damaged"),
    "a list": ([("manifest.json", b"[]")], "names no schema"),
    "no engine": ([("manifest.json", manifest(engine=3))], "manifest.json is wrong"),
    "no kind": ([("manifest.json", manifest().replace(b'"kind"', b'"kin"'))], "lacks 'kind'"),
    "no block": ([("manifest.json", manifest(engine={**ENGINE, "block_frames": 0}))], "needs a sample rate, a block"),
    "odd block": ([("manifest.json", manifest(engine={**ENGINE, "block_frames": "x"}))], "block_frames is 'x'"),
    "traversal": ([("manifest.json", manifest(files=[{**ENTRY, "path": "../a"}]))], "not allowed"),
    "absolute": ([("manifest.json", manifest(files=[{**ENTRY, "path": "/a"}]))], "not allowed"),
    "missing file": ([("manifest.json", manifest(files=[ENTRY]))], "file 'a' is not as"),
    "other size": ([("manifest.json", manifest(files=[ENTRY])), ("a", b"22")], "file 'a' is not as"),
    "unlisted file": ([("manifest.json", manifest()), ("b", b"")], "file 'b' is not as"),
    "file twice": ([("manifest.json", manifest(files=[ENTRY])), ("a", b"1"), ("a", b"2")], "holds a file twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path) -> None:
    members, says = REFUSED[case]
    with pytest.raises(BundleError) as caught:
        verify(zip_of(tmp_path / "x.ghost", members))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_compressed_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="compressed"):
        read_manifest(zip_of(tmp_path / "x.ghost", [("manifest.json", manifest())], zipfile.ZIP_DEFLATED))


def test_an_engine_of_unknown_kind(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x.ghost", {**MANIFEST, "kind": "reverb"}, {})
    with pytest.raises(BundleError, match="kind 'reverb' are unknown"):
        open_engine(str(tmp_path / "x.ghost"))


def test_echo_needs_no_file() -> None:
    engine = open_engine("echo")
    assert read_spec("echo") == engine.spec
    block = np.linspace(-1, 1, engine.spec.block_frames, dtype=np.float32)
    assert np.array_equal(engine.generate(block, EngineControls()), block)
