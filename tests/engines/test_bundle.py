"""Bundles: what is written is what is read, and anything else is refused in one line."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bundle import Bundle, BundleError, open_engine, read_manifest, read_spec, verify, write_bundle
from engines.container import write_container
from engines.engine import EngineControls, EngineSpec
from engines.manifest import VERSION, head
from engines.strict_json import encode

REPO = Path(__file__).parents[2]

SPEC = EngineSpec("toy", 44_100, 16_384, 1_024, ("organ", "choir"), 4, 8)
MANIFEST = head("lmdm", SPEC, release="1", created="2026-01-01")
ENGINE = MANIFEST["engine"]
FILES = {"step.onnx": b"graph" * 999, "fp16/step.onnx": b"\x00\x01" * 50, "golden.json": b""}


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
    offsets = list(range(0, len(good), 17))
    for offset in offsets:
        data = bytearray(good)
        data[offset] ^= 0x55
        bundle.write_bytes(bytes(data))
        try:
            Bundle.open(bundle).verify()
        except BundleError as error:
            assert "\n" not in str(error)
            noticed += 1
    assert noticed == len(offsets)


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


def packed(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with path.open("wb") as file:
        write_container(file, members)
    return path


def manifest(**changes: Any) -> bytes:
    return encode({"schema": 2, **MANIFEST, "files": [], **changes})


def told(text: str) -> list[tuple[str, bytes]]:
    """The usual manifest, with one more thing said in it as this JSON."""
    return [("manifest.json", manifest().replace(b'"schema":2', text.encode() + b'"schema":2'))]


ENTRY = {"path": "a.onnx", "role": "graph", "sha256": "0" * 64, "size": 1}
LICENCE = {"covers": "all", "name": "MIT", "file": "licences/mit.txt"}
REFUSED: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "other zip": ([("readme", b"")], "does not begin with manifest.json"),
    "newer schema": ([("manifest.json", manifest(schema=7))], "schema 7 is unknown"),
    "no json": ([("manifest.json", b"{")], "manifest.json is damaged"),
    "deep json": ([("manifest.json", b"[" * 100_000)], "manifest.json is damaged"),
    "nested json": ([("manifest.json", manifest(model=[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]))], "nested more than 16 deep"),
    "a list": ([("manifest.json", b"[]\n")], "names no schema"),
    "no engine": ([("manifest.json", manifest(engine=3))], "manifest.json is wrong"),
    "no kind": ([("manifest.json", manifest().replace(b'"kind"', b'"kina"'))], "lacks 'kind'"),
    "no block": ([("manifest.json", manifest(engine={**ENGINE, "block_frames": 0}))], "block_frames is 0"),
    "odd block": ([("manifest.json", manifest(engine={**ENGINE, "block_frames": "x"}))], "block_frames is 'x'"),
    "true is no number": ([("manifest.json", manifest(number=True))], "number is True"),
    "below zero": ([("manifest.json", manifest(number=-1))], "number is -1"),
    "another name": ([("manifest.json", manifest(engine={**ENGINE, "name": "x"}))], "it is called 'toy' and its engine 'x'"),
    "no prompts": ([("manifest.json", manifest(engine={**ENGINE, "prompts": []}))], "an engine needs a prompt"),
    "stereo": ([("manifest.json", manifest(audio={"channels": 2, "peak": 1}))], "its audio is"),
    "a later Ghostnote": ([("manifest.json", manifest(requires="99.0.0"))], "it requires Ghostnote 99.0.0, this is"),
    "a control of tomorrow": ([("manifest.json", manifest(controls=[{"name": "warp"}]))], "control 'warp' is unknown"),
    "a licence without text": ([("manifest.json", manifest(licences=[LICENCE]))], "'licences/mit.txt' is not in it"),
    "not a number": (told('"model":NaN,'), "NaN is no number"),
    "endless": (told('"model":1e999,'), "too large"),
    "huge": (told(f'"model":{"9" * 400},'), "too large"),
    "said twice": (told('"schema":2,'), "a key stands there twice"),
    "spaces": (told('"model": 1,'), "not in canonical form"),
    "half a letter": (told('"model":"\\ud800",'), "can't be shown"),
    "a text that writes backwards": (told('"model":"\u202eexe",'), "can't be shown"),
    "a text that clears the screen": (told('"model":"\\u001b[2J",'), "can't be shown"),
    "no text": ([("manifest.json", b"\xff\xfe")], "manifest.json is damaged"),
    "traversal": ([("manifest.json", manifest(files=[{**ENTRY, "path": "../a.onnx"}]))], "not allowed"),
    "absolute": ([("manifest.json", manifest(files=[{**ENTRY, "path": "/a.onnx"}]))], "not allowed"),
    "of no use": ([("manifest.json", manifest(files=[{**ENTRY, "path": "run.py"}]))], "nobody knows what the file 'run.py'"),
    "another role": ([("manifest.json", manifest(files=[{**ENTRY, "role": "weights"}]))], "is said to be 'weights'"),
    "no hash": ([("manifest.json", manifest(files=[{**ENTRY, "sha256": "Z" * 64}]))], "is no SHA-256"),
    "too large": ([("manifest.json", manifest(files=[{**ENTRY, "size": 1 << 30}]))], "more than 8388608 are not allowed"),
    "missing file": ([("manifest.json", manifest(files=[ENTRY]))], "file 'a.onnx' is not"),
    "other size": ([("manifest.json", manifest(files=[ENTRY])), ("a.onnx", b"22")], "file 'a.onnx' is not"),
    "unlisted file": ([("manifest.json", manifest()), ("b", b"")], "more or less than its manifest lists"),
    "file twice": ([("manifest.json", manifest(files=[ENTRY])), ("a.onnx", b"1"), ("a.onnx", b"2")], "more or less"),
    "listed twice": ([("manifest.json", manifest(files=[ENTRY, ENTRY])), ("a.onnx", b"1"), ("a.onnx", b"1")], "lists a file twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path) -> None:
    members, says = REFUSED[case]
    with pytest.raises(BundleError) as caught:
        verify(packed(tmp_path / "x.ghost", members))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stock_zip_readers_open_it(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in FILES} == FILES
        again = [(info.filename, archive.read(info)) for info in archive.infolist()]
    assert packed(bundle.with_name("again.ghost"), again).read_bytes() == bundle.read_bytes()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_another_tool_packed_is_refused(bundle: Path, method: int) -> None:
    """Also a compressed one: nothing is ever inflated."""
    with zipfile.ZipFile(bundle) as archive, zipfile.ZipFile(bundle.with_name("x.ghost"), "w", method) as other:
        for info in archive.infolist():
            other.writestr(info.filename, archive.read(info))
    with pytest.raises(BundleError, match="compressed, or packed by another tool"):
        read_manifest(bundle.with_name("x.ghost"))


@pytest.mark.parametrize("tail", [b"\0", b"more", b"PK\5\6" + bytes(18)])
def test_nothing_may_follow(bundle: Path, tail: bytes) -> None:
    bundle.write_bytes(bundle.read_bytes() + tail)
    with pytest.raises(BundleError, match="more or less than its manifest lists"):
        read_manifest(bundle)


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BundleError, match="is no ordinary file"):
            read_manifest(path)


def test_the_version_is_the_packages() -> None:
    assert f'\nversion = "{VERSION}"\n' in (REPO / "pyproject.toml").read_text()


def test_an_engine_of_unknown_kind(tmp_path: Path) -> None:
    write_bundle(tmp_path / "x.ghost", head("reverb", SPEC), {})
    with pytest.raises(BundleError, match="kind 'reverb' are unknown"):
        open_engine(str(tmp_path / "x.ghost"))


def test_echo_needs_no_file() -> None:
    engine = open_engine("echo")
    assert read_spec("echo") == engine.spec
    block = np.linspace(-1, 1, engine.spec.block_frames, dtype=np.float32)
    assert np.array_equal(engine.generate(block, EngineControls()), block)
