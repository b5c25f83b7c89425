"""Weights as a safetensors file: eight bytes of length, a header in JSON, and the tensors one behind the other.

Graphs name the same bytes as their external data, with offsets into the file; so one copy serves every reader. Reading keeps to what the
format's own readers demand (offsets in order, without holes or overlaps), and to types that engines use.

Runs in: any process. The package safetensors is not needed.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.strict_json import StrictJsonError, decode

Array = NDArray[Any]
_TYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}
TYPES: dict[str, np.dtype[Any]] = {name: np.dtype(code) for name, code in _TYPES.items()}
_NAMES = {dtype: name for name, dtype in TYPES.items()}
ALIGN = 64
MAX_HEADER_BYTES, MAX_TENSORS, MAX_RANK = 4 << 20, 20_000, 8
_LENGTH = struct.Struct("<Q")


class TensorError(ValueError):
    """What is wrong with a file of tensors, without saying which file."""


@dataclass(frozen=True)
class Tensor:
    """Where one tensor lies, and what it is."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # in the file
    size: int

    def view(self, data: bytes | memoryview) -> Array:
        return np.frombuffer(data, self.dtype, math.prod(self.shape), self.offset).reshape(self.shape)


def layout(arrays: Mapping[str, Array]) -> tuple[bytes, list[Tensor]]:
    """The header for these arrays, and where each of them goes: first those that fill whole lines of memory, then by width."""
    order = sorted(arrays, key=lambda name: (arrays[name].nbytes % ALIGN != 0, -arrays[name].itemsize, name))
    table: dict[str, Any] = {}
    at = 0
    for name in order:
        array = arrays[name]
        table[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH.size + len(text)) % ALIGN)
    header = _LENGTH.pack(len(text)) + text
    begins = [len(header) + table[name]["data_offsets"][0] for name in order]
    found = zip(((name, arrays[name]) for name in order), begins, strict=True)
    return header, [Tensor(name, array.dtype, array.shape, at, array.nbytes) for (name, array), at in found]


def pack_tensors(arrays: Mapping[str, Array]) -> bytes:
    header, tensors = layout(arrays)
    return b"".join([header, *(np.ascontiguousarray(arrays[one.name]).tobytes() for one in tensors)])


def header_bytes(begin: bytes, size: int) -> int:
    """How much of a file of `size` that begins so is header. Raises TensorError."""
    if len(begin) < _LENGTH.size:
        raise TensorError("is cut short")
    held = _LENGTH.size + int(_LENGTH.unpack_from(begin)[0])
    if held > min(size, MAX_HEADER_BYTES):
        raise TensorError(f"has a header of {held} bytes, which is too much")
    return held


def read_header(data: bytes, size: int) -> dict[str, Tensor]:
    """Name -> tensor; `data` is at least the header of a file of `size`. Raises TensorError."""
    held = header_bytes(data[: _LENGTH.size], size)
    try:
        table = decode(data[_LENGTH.size : held])
    except StrictJsonError as wrong:
        raise TensorError(f"has a damaged header ({wrong})") from None
    if not isinstance(table, dict) or len(table) > MAX_TENSORS:
        raise TensorError(f"has a header that is no table of at most {MAX_TENSORS} tensors")
    tensors = {name: _tensor(name, facts, held) for name, facts in table.items() if name != "__metadata__"}
    _check_places(tensors.values(), held, size)
    return tensors


def _tensor(name: str, facts: Any, base: int) -> Tensor:
    if not isinstance(facts, dict) or set(facts) != {"dtype", "shape", "data_offsets"} or facts["dtype"] not in list(TYPES):
        raise TensorError(f"has a tensor {name!r} of a type that is unknown here")
    shape, places, dtype = facts["shape"], facts["data_offsets"], TYPES[facts["dtype"]]
    numbers = [*shape, *places] if isinstance(shape, list) and isinstance(places, list) else [None]
    if not all(type(one) is int and one >= 0 for one in numbers) or len(shape) > MAX_RANK or len(places) != 2:
        raise TensorError(f"has a tensor {name!r} of a shape or place that is none")
    size = math.prod(shape) * dtype.itemsize
    if places[1] - places[0] != size:
        raise TensorError(f"has a tensor {name!r} whose shape needs {size} bytes and whose place has {places[1] - places[0]}")
    return Tensor(name, dtype, tuple(shape), base + places[0], size)


def _check_places(tensors: Iterable[Tensor], begin: int, end: int) -> None:
    at = begin
    for one in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size)):
        if one.offset != at:
            raise TensorError(f"has a hole or an overlap before its tensor {one.name!r}")
        at += one.size
    if at != end:
        raise TensorError(f"has {end} bytes, but its tensors end at {at}")


def check_finite(tensor: Tensor, values: Array) -> None:
    """Raises TensorError for NaN and infinity."""
    if tensor.dtype.kind == "f" and not np.isfinite(values).all():
        raise TensorError(f"has a tensor {tensor.name!r} that holds a number which is not finite")
