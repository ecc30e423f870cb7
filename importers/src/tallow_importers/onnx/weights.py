"""The weights of an ONNX file, read from where they lie in it, each into memory of its own.

A file is mostly the raw bytes of initializers. These are cut out before protobuf parses the rest, which
otherwise would hold them twice more, and all of them for as long as any is needed. Source: the wire format of protocol buffers,
protobuf.dev/programming-guides/encoding, and the field numbers of onnx.proto3.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tallow.errors import ImportFailed

GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9  # fields of a model, of its graph, and of a tensor
LEAST = 4096  # bytes of a weight that is worth it
Places = dict[int, tuple[int, int]]  # number of an initializer -> where its raw data lies
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message: where it starts with its tag, and where its value lies."""

    number: int
    wire: int
    start: int
    value: int
    stop: int


def read(path: Path) -> tuple[bytes, dict[int, np.ndarray]]:
    """The bytes of a model's file without large raw data, and these by the number of the initializer; or all
    bytes, of a file that is no model. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        rest, places = _without_weights(file)
        return rest, {number: _read_at(file, *place) for number, place in places.items()}


def read_without_weights(path: Path) -> bytes:
    """The bytes of a model's file that `read` gives first."""
    with open(path, "rb", buffering=0) as file:
        return _without_weights(file)[0]


def read_bytes(data: bytes) -> tuple[bytes, dict[int, np.ndarray]]:
    """As `read`, of a file's bytes; raw data are views of them."""
    rest, places = _cut_if_sound(data)
    whole = np.frombuffer(data, np.uint8)
    return rest, {number: whole[start:stop] for number, (start, stop) in places.items()}


def _without_weights(file: FileIO) -> tuple[bytes, Places]:
    """The bytes of a model but for large raw data, and where these lie."""
    if not os.fstat(file.fileno()).st_size:
        return b"", {}
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return _cut_if_sound(mapped)


def _cut_if_sound(data: bytes | mmap.mmap) -> tuple[bytes, Places]:
    with memoryview(data) as view:
        try:
            return _cut(view)
        except (ValueError, IndexError):  # protobuf knows best what is wrong, and what is not
            return bytes(view), {}


def _read_at(file: FileIO, start: int, stop: int) -> np.ndarray:
    """Bytes of a file, at a multiple of 64 in memory."""
    raw = np.empty(stop - start + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    found = raw[skip : skip + stop - start]
    done = 0
    while done < len(found):
        count = os.preadv(file.fileno(), [found[done:]], start + done)
        if not count:
            raise ImportFailed(
                f"{file.name} became shorter while it was read: load it again when it is whole"
            )
        done += count
    return found


def _cut(data: memoryview) -> tuple[bytes, Places]:
    """The bytes without large raw data, and where these lie, by the number of the initializer."""
    parts: list[memoryview | bytes] = []
    weights: Places = {}
    graphs = 0
    for field in _fields(data, 0, len(data)):
        if field.number != GRAPH:
            parts.append(data[field.start : field.stop])
            continue
        graphs += 1
        if field.wire != _BYTES or graphs > 1:
            raise ValueError("a model has one graph")
        kept = _cut_graph(data, field, weights)
        parts += [_tag(GRAPH), _varint(sum(map(len, kept))), *kept]
    return b"".join(parts), weights


def _cut_graph(data: memoryview, graph: Field, weights: Places) -> list[memoryview | bytes]:
    parts: list[memoryview | bytes] = []
    number = 0
    for field in _fields(data, graph.value, graph.stop):
        if field.number == INITIALIZER:
            raw = [f for f in _fields(data, field.value, field.stop) if f.number == RAW_DATA]
            if len(raw) == 1 and raw[0].wire == _BYTES and raw[0].stop - raw[0].value >= LEAST:
                (found,) = raw
                weights[number] = found.value, found.stop
                before, after = data[field.value : found.start], data[found.stop : field.stop]
                parts += [_tag(INITIALIZER), _varint(len(before) + len(after)), before, after]
                number += 1
                continue
            number += 1
        parts.append(data[field.start : field.stop])
    return parts


def _fields(data: memoryview, start: int, stop: int) -> Iterator[Field]:
    """The fields of a message; ValueError or IndexError where it is none."""
    at = start
    while at < stop:
        tag, value = _read(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, value = _read(data, value)
            end = value + length
        elif wire == _VARINT:
            end = _read(data, value)[1]
        elif wire in (_FIXED32, _FIXED64):
            end = value + (4 if wire == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {wire}")
        if end > stop:
            raise ValueError("a field goes beyond its message")
        yield Field(number, wire, at, value, end)
        at = end


def _read(data: memoryview, at: int) -> tuple[int, int]:
    """A variable-length integer and where the next thing begins."""
    result = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, at
    raise ValueError("an integer of more than ten bytes")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _BYTES)
