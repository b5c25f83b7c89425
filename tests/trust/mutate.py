"""Bundles that somebody has tampered with: on the level of the zip, the manifest, the graphs, the tensors, the signature. From a seed."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from engines.container import write_container
from engines.manifest import MANIFEST
from engines.protobuf import LENGTH, VARINT, Field, fields_of, message, varint
from engines.strict_json import encode
from tests.trust.keys import KEY, STRANGER

SIGNATURE = "manifest.json.minisig"
NASTY_TEXTS = ("", "../../evil", "/etc/passwd", "a\0b", "\ud800", "\u202eexe", "x" * 100_000, "é" * 300, "..", "\x1b[2J", "step.onnx")
NASTY_NUMBERS = (True, -1, 0, 1, 2**31, 2**53, 2**63, 10**40, -(2**64), 0.5, 1e308, float("nan"), float("inf"))
NASTY_VALUES: tuple[Any, ...] = (None, *NASTY_NUMBERS, [], {}, [[]], {"a": {"b": []}}, *NASTY_TEXTS)
OPERATORS = ("If", "Loop", "Scan", "SequenceConstruct", "ImageDecoder", "StringNormalizer", "Optional", "ConstantOfShape", "Evil", "")


@dataclass(frozen=True)
class Parts:
    """A bundle, taken apart."""

    facts: dict[str, Any]
    files: dict[str, bytes]
    signature: bytes | None

    def packed(self, manifest: bytes | None = None) -> bytes:
        """With this manifest, or with the facts as they are, hashes and all. What can't be packed by the rules is packed against them."""
        manifest = self._manifest() if manifest is None else manifest
        signed = [(SIGNATURE, self.signature)] if self.signature is not None else []
        out = io.BytesIO()
        write_container(out, [(MANIFEST, manifest), *signed, *sorted(self.files.items())])
        return out.getvalue()

    def _manifest(self) -> bytes:
        try:
            return encode(self.facts)
        except ValueError:  # NaN, or half a letter
            return json.dumps(self.facts, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    def rehashed(self, name: str, data: bytes) -> Parts:
        """With another file, and a manifest that agrees."""
        listed = [dict(one) for one in self.facts["files"]]
        for one in listed:
            if one["path"] == name:
                one |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        return replace(self, facts={**self.facts, "files": listed}, files={**self.files, name: data})


def of_zip(draw: random.Random, parts: Parts) -> bytes:
    data = bytearray(parts.packed())
    ways: list[Callable[[], bytes]] = [
        lambda: _flipped(draw, data, draw.randint(1, 4)),
        lambda: bytes(data[: draw.randrange(len(data))]),
        lambda: bytes(data) + draw.randbytes(draw.randint(1, 100)),
        lambda: draw.randbytes(draw.randint(1, 100)) + bytes(data),
        lambda: _spliced(draw, data),
        lambda: _header(draw, data),
        lambda: _zipped(draw, parts),
        lambda: _bomb(draw),
    ]
    return draw.choice(ways)()


def _flipped(draw: random.Random, data: bytearray, count: int) -> bytes:
    for _ in range(count):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def _spliced(draw: random.Random, data: bytearray) -> bytes:
    """A piece is removed, doubled or moved."""
    begin, end, at = sorted(draw.randrange(len(data)) for _ in range(3))
    piece = data[begin:end] if draw.random() < 0.5 else b""
    return bytes(data[:begin] + data[end:at] + piece + data[at:] + (data[begin:end] if draw.random() < 0.3 else b""))


def _header(draw: random.Random, data: bytearray) -> bytes:
    """A number in one of the headers: sizes, offsets, methods, flags, counts, attributes (0xA1FF0000 is a link)."""
    places = [at for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6") for at in _all(data, mark)]
    at = draw.choice(places) + draw.randrange(4, 44, 2)
    number = draw.choice((0, 1, 8, 0xFFFF, 0xFFFFFFFF, 0xA1FF0000, draw.getrandbits(32)))
    if at + 4 <= len(data):
        wide = draw.random() < 0.5
        struct.pack_into("<I" if wide else "<H", data, at, number if wide else number & 0xFFFF)
    return bytes(data)


def _all(data: bytearray, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def _zipped(draw: random.Random, parts: Parts) -> bytes:
    """The same files by another tool: compressed, with links, folders, doubles, names that lead out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))) as archive:
        for name, data in ((MANIFEST, parts._manifest()), *parts.files.items()):
            info = zipfile.ZipInfo(draw.choice((name, name, "../" + name, "/" + name, name + "/")))
            info.compress_type = archive.compression
            info.external_attr = draw.choice((0o644, 0o120777, 0o10644, 0o60644)) << 16
            archive.writestr(info, data)
    return out.getvalue()


def _bomb(draw: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, bytes(8 << 20) if draw.random() < 0.5 else b"[" * (4 << 20))
    return out.getvalue()


def of_manifest(draw: random.Random, parts: Parts) -> bytes:
    facts = json.loads(json.dumps(parts.facts))
    for _ in range(draw.randint(1, 3)):
        _change(draw, facts)
    changed = replace(parts, facts=facts)
    if draw.random() < 0.6:
        return changed.packed()
    text = changed._manifest()
    ways: list[Callable[[], bytes]] = [
        lambda: text.replace(b'"schema":2', b'"schema":2,"schema":2'),
        lambda: text.replace(b'"number":3', b'"number":' + draw.choice((b"9" * 5_000, b"-0", b"3.0", b"NaN", b"1e999", b"03"))),
        lambda: text.replace(b"{", b'{"deep":' + b"[" * 5_000, 1),
        lambda: json.dumps(facts, indent=draw.choice((1, None))).encode(),
        lambda: b"\xef\xbb\xbf" + text,
        lambda: text + draw.choice((b"\n", b" ", b"{}", b"\0")),
        lambda: _flipped(draw, bytearray(text), 2),
        lambda: text + b" " * (2 << 20),
    ]
    return changed.packed(draw.choice(ways)())


def _change(draw: random.Random, facts: Any) -> None:
    """Something, somewhere in it."""
    while True:
        keys = list(facts) if isinstance(facts, dict) else list(range(len(facts)))
        if not keys:
            return
        key = draw.choice(keys)
        if isinstance(facts[key], (dict, list)) and facts[key] and draw.random() < 0.7:
            facts = facts[key]
            continue
        if draw.random() < 0.2:
            del facts[key]
        elif isinstance(facts, list) and draw.random() < 0.3:
            facts.append(facts[key])
        elif isinstance(facts, dict) and draw.random() < 0.1:
            facts[draw.choice(NASTY_TEXTS)] = facts[key]
        else:
            facts[key] = draw.choice(NASTY_VALUES)
        return


def of_graph(draw: random.Random, parts: Parts) -> bytes:
    name = draw.choice([one for one in parts.files if one.endswith(".onnx")])
    data = parts.files[name]
    ways: list[Callable[[], bytes]] = [
        lambda: _wire(draw, memoryview(data), draw.randint(0, 4)),
        lambda: data.replace(b"MatMul", draw.choice(OPERATORS).encode().ljust(6)[:6], 1),
        lambda: data.replace(b"weights.safetensors", draw.choice((b"../../../etc/passwd", b"manifest.json......")), 1),
        lambda: _flipped(draw, bytearray(data), draw.randint(1, 3)),
        lambda: data + data,
        lambda: data[: draw.randrange(len(data))],
        lambda: draw.randbytes(draw.randint(0, 500)),
        lambda: b"\x3a" + b"\xff" * 9 + b"\x01" + data,
    ]
    return parts.rehashed(name, draw.choice(ways)()).packed()


def _wire(draw: random.Random, data: memoryview, depth: int) -> bytes:
    """One field of a message, or of a message in it: removed, doubled, renumbered, or with another value."""
    fields = list(fields_of(data))
    if not fields:
        return bytes(data) + b"\x08\x01"
    at = draw.randrange(len(fields))
    one, inner = fields[at], None
    if depth and one.kind == LENGTH:
        try:
            inner = message(one.number, _wire(draw, one.body, depth - 1))
        except ValueError:
            inner = None
    before, after = (b"".join(bytes(f.raw) for f in part) for part in (fields[:at], fields[at + 1 :]))
    return before + (inner if inner is not None else _field(draw, one)) + after


def _field(draw: random.Random, one: Field) -> bytes:
    raw = bytes(one.raw)
    number = draw.choice((1, 5, 6, 11, 14, 20, 25, 99))
    if one.kind == VARINT:
        value = draw.choice((0, 1, 2, 7, 16, 2**31, 2**40, 2**63, 2**64 - 1))
        return draw.choice((b"", raw + raw, varint(one.number << 3) + varint(value), varint(number << 3) + varint(value)))
    if one.kind == LENGTH:
        body = draw.choice((b"", b"\xff" * 20, bytes(one.body) * 2, b"x" * 5_000, b"\0\0\xc0\x7f" * 8))
        return draw.choice((b"", raw + raw, message(one.number, body), message(number, bytes(one.body))))
    return draw.choice((b"", raw + raw))


def of_tensors(draw: random.Random, parts: Parts) -> bytes:
    name = draw.choice([one for one in parts.files if one.endswith(".safetensors")])
    data = bytearray(parts.files[name])
    held = struct.unpack_from("<Q", data)[0]
    text = bytes(data[8 : 8 + held])
    ways: list[Callable[[], bytes]] = [
        lambda: struct.pack("<Q", draw.choice((0, 1, held + 1, 2**40, 2**64 - 1))) + bytes(data[8:]),
        lambda: bytes(data[: draw.randrange(len(data))]),
        lambda: bytes(data) + bytes(draw.randint(1, 50)),
        lambda: _not_finite(draw, data, 8 + held),
        lambda: data[:8] + text.replace(b'"F16"', draw.choice((b'"F32"', b'"X16"', b'"I64"')), 1) + data[8 + held :],
        lambda: data[:8] + text.replace(b"[1", b"[9", 1) + data[8 + held :],
        lambda: data[:8] + _flipped(draw, bytearray(text.rstrip()), 1).ljust(held) + data[8 + held :],
    ]
    return parts.rehashed(name, bytes(draw.choice(ways)())).packed()


def _not_finite(draw: random.Random, data: bytearray, begin: int) -> bytes:
    """float16's infinity and NaN; where a float32 lies, its upper half is that of one."""
    at = begin + draw.randrange((len(data) - begin) // 4) * 4
    data[at : at + 4] = draw.choice((b"\0\x7e\x80\x7f", b"\0\x7c\xc0\xff"))
    return bytes(data)


def of_signature(draw: random.Random, parts: Parts) -> bytes:
    good, manifest = parts.signature, parts._manifest()
    if good is None:
        return parts.packed()
    lines = good.split(b"\n")
    ways: list[Callable[[], bytes | None]] = [
        lambda: None,
        lambda: STRANGER.sign(manifest, "toy"),
        lambda: replace(STRANGER, key_id=KEY.key_id).sign(manifest, "toy"),
        lambda: KEY.sign(manifest + b" ", "toy"),
        lambda: _flipped(draw, bytearray(good), 1),
        lambda: good[: draw.randrange(len(good))],
        lambda: b"\n".join([draw.choice((b"untrusted comment: trust me", b"", lines[1])), *lines[1:]]),
        lambda: b"\n".join([*lines[:2], b"trusted comment: number 99", *lines[3:]]),
        lambda: good.replace(b"\n", b"\r\n"),
        lambda: good + good,
        lambda: draw.randbytes(draw.randint(0, 300)),
    ]
    return replace(parts, signature=draw.choice(ways)()).packed()


def of_golden(draw: random.Random, parts: Parts) -> bytes:
    name = draw.choice(("golden.json", "presets.json", "licences/mit.txt"))
    try:
        facts = json.loads(parts.files[name])
        _change(draw, facts)
        data = json.dumps(facts).encode()
    except ValueError:
        data = draw.choice((b"\xff\xfe", b"\0", b"a\x1b[2Jb"))
    return parts.rehashed(name, data).packed()


LEVELS: dict[str, Callable[[random.Random, Parts], bytes]] = {
    "zip": of_zip, "manifest": of_manifest, "graph": of_graph, "tensors": of_tensors, "signature": of_signature, "golden": of_golden,
}  # fmt: skip


def mutant(seed: int, parts: Parts) -> tuple[str, bytes]:
    """Level and bytes."""
    draw = random.Random(seed)
    level = list(LEVELS)[seed % len(LEVELS)]
    return level, bytes(LEVELS[level](draw, parts))
