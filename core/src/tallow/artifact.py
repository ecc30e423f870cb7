"""Artifacts: a Compiled as one `.tallow` file in the safetensors format.

Tensors start at multiples of 64 bytes, so that opening is mapping: `code`, `support.NAME` and one for
each constant, with a number and a dot before the names of what further devices of a list have. The metadata
holds the manifest, with room for several targets, and a digest of manifest and layout. Code is checked whenever
a file is opened, constants when asked for, since that reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tallow.backend import Code, Target
from tallow.choices import Chosen
from tallow.compiled import Compiled, Part, Tuning
from tallow.dim import Expr
from tallow.dim_text import parse_dim
from tallow.dtype import DTYPES, DType, dtype
from tallow.errors import ArtifactError, TallowError
from tallow.location import Location
from tallow.schedule.checks import Check
from tallow.schedule.program import (
    ControlStep,
    FlowStep,
    HostStep,
    KernelStep,
    Moved,
    PlacedStep,
    Program,
    Slot,
)
from tallow.types import (
    MapType,
    NothingType,
    OptionalType,
    SequenceType,
    TensorType,
    UnrankedType,
)

FORMAT = 5
ALIGNMENT = 64
LARGEST_HEADER = 256 << 20
LARGEST_CHECKSUM = (1 << 32) - 1
PIECE = 8 << 20  # bytes of a constant that are packed at a time when it is written
_STEPS = (KernelStep, HostStep, ControlStep, FlowStep, PlacedStep)
_CLASSES = {c.__name__: c for c in (*_STEPS, Moved, Program, Slot, Location, Check, Tuning, Chosen)}


class _Tensors:
    """Arrays of a file that is to be written, as they are."""

    def __init__(self):
        self.parts: dict[str, np.ndarray] = {}

    def add(self, name: str, array: np.ndarray) -> dict:
        """Note an array; what the manifest says of it."""
        if array.dtype == object:
            return {"strings": [str(v) for v in array.reshape(-1)], "shape": list(array.shape)}
        self.parts[name] = array
        return {"tensor": name, "dtype": dtype(array.dtype).name, "shape": list(array.shape)}


def encode(value, tensors: _Tensors):
    """A part of a program as JSON; arrays go to `tensors`."""
    if type(value).__name__ in _CLASSES:
        fields = {name: encode(getattr(value, name), tensors) for name in value._fields}
        return {"class": type(value).__name__, **fields}
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Expr():
            return {"dim": str(value)}
        case DType():
            return {"dtype": value.name}
        case TensorType():
            return {"type": [value.dtype.name, [str(d) for d in value.shape]]}
        case SequenceType() | OptionalType():
            return {type(value).__name__: encode(value.element, tensors)}
        case UnrankedType() | NothingType():
            return {type(value).__name__: value.dtype.name}
        case MapType():
            return {"MapType": [value.key.name, encode(value.element, tensors)]}
        case np.ndarray():
            return {"array": tensors.add(f"attribute.{len(tensors.parts)}", value)}
        case tuple() | list():
            return [encode(v, tensors) for v in value]
        case Mapping():
            return {"map": [[encode(k, tensors), encode(v, tensors)] for k, v in value.items()]}
    raise ArtifactError(f"cannot save a {type(value).__name__}")


def decode(value, arrays: Mapping[str, np.ndarray]):
    """What `encode` wrote."""
    match value:
        case list():
            return tuple(decode(v, arrays) for v in value)
        case {"dim": text}:
            return parse_dim(text)
        case {"dtype": name}:
            return DTYPES[name]
        case {"type": [name, dims]}:
            return TensorType(DTYPES[name], tuple(parse_dim(d) for d in dims))
        case {"SequenceType": inner}:
            return SequenceType(decode(inner, arrays))
        case {"OptionalType": inner}:
            return OptionalType(decode(inner, arrays))
        case {"UnrankedType": name}:
            return UnrankedType(DTYPES[name])
        case {"NothingType": name}:
            return NothingType(DTYPES[name])
        case {"MapType": [name, inner]}:
            return MapType(DTYPES[name], decode(inner, arrays))
        case {"array": entry}:
            return _array(entry, arrays)
        case {"map": pairs}:
            return {decode(k, arrays): decode(v, arrays) for k, v in pairs}
        case {"class": name, **fields}:
            return _CLASSES[name](**{k: decode(v, arrays) for k, v in fields.items()})
    return value


def _array(entry: dict, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if "strings" in entry:
        values = np.empty(len(entry["strings"]), object)
        values[:] = entry["strings"]
        return values.reshape(entry["shape"])
    carrier = DTYPES[entry["dtype"]].numpy
    count = int(np.prod(entry["shape"], dtype=np.int64)) * carrier.itemsize
    return arrays[entry["tensor"]][:count].view(carrier).reshape(entry["shape"])


def write(compiled: Compiled, path: Path, force: bool = False) -> Path:
    """Write a file, whole or not at all."""
    if path.exists() and not force:
        raise ArtifactError(f"{path} exists already: choose another name or say force")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "wb") as file:
        write_to(file, compiled)
    os.replace(draft, path)
    return path


def write_to(file: BinaryIO, compiled: Compiled) -> None:
    """Write a Compiled as a file's content. Constants go piece by piece, so that what is packed on the way
    needs no memory; the header comes last, since it has their checksums, into the room left for it."""
    tensors = _Tensors()
    first, *others = (
        _described(part, tensors, f"{n}." if n else "") for n, part in enumerate(compiled.parts)
    )
    target = {**first, "program": encode(compiled.program, tensors), "others": others}
    sums = {name: LARGEST_CHECKSUM for name in tensors.parts}
    room = len(_header(target, compiled.metadata, tensors, sums))
    room += -(8 + room) % ALIGNMENT
    start = file.tell()
    file.seek(start + 8 + room)
    for name, part in tensors.parts.items():
        sums[name] = _write_part(file, part)
        file.write(b"\0" * (-part.nbytes % ALIGNMENT))
    end = file.tell()
    file.seek(start)
    file.write(room.to_bytes(8, "little") + _header(target, compiled.metadata, tensors, sums).ljust(room))
    file.seek(end)


def _described(part: Part, tensors: _Tensors, prefix: str) -> dict:
    """What the manifest says of what a device has, its tensors noted under names with this prefix."""
    code = part.code
    tensors.parts[f"{prefix}code"] = np.frombuffer(code.blob, np.uint8)
    for name, blob in code.support.items():
        tensors.parts[f"{prefix}support.{name}"] = np.frombuffer(blob, np.uint8)
    return {
        "target": part.target.facts,
        "entries": dict(code.entries),
        "notes": dict(code.notes),
        "support": {n: [len(blob), _digest(blob)] for n, blob in code.support.items()},
        "tuning": encode(part.tuning, tensors),
        "constants": {k: tensors.add(f"{prefix}constant.{k}", array) for k, array in part.constants.items()},
        "code": {"size": len(code.blob), "sha256": _digest(code.blob)},
    }


def _header(target: dict, metadata: Mapping[str, str], tensors: _Tensors, sums: Mapping[str, int]) -> bytes:
    """The JSON that a file begins with."""
    checksums = {name: [part.nbytes, sums[name]] for name, part in tensors.parts.items()}
    manifest = {"format": FORMAT, "targets": [{**target, "checksums": checksums}], "metadata": dict(metadata)}
    entries, offset = {}, 0
    for name, part in tensors.parts.items():
        padded = -(-part.nbytes // ALIGNMENT) * ALIGNMENT
        entries[name] = {"dtype": "U8", "shape": [padded], "data_offsets": [offset, offset + padded]}
        offset += padded
    text = json.dumps(manifest)
    described = {"tallow": text, "tallow.sha256": _digest(_signed(text, entries))}
    return json.dumps({"__metadata__": described, **entries}).encode()


def _write_part(file: BinaryIO, array: np.ndarray) -> int:
    """Write an array's elements in C order; their checksum."""
    checksum = 0
    for piece in _pieces(array):
        content = memoryview(piece.reshape(-1).view(np.uint8))
        checksum = zlib.crc32(content, checksum)
        file.write(content)
    return checksum


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array in contiguous parts; those that had to be copied are small."""
    if array.flags.c_contiguous or array.nbytes <= PIECE:
        yield np.ascontiguousarray(array)
    else:
        for part in array:
            yield from _pieces(part)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _signed(manifest: str, entries: Mapping[str, Mapping]) -> bytes:
    """What the digest of a header covers: the manifest and where each tensor lies."""
    layout = [[name, entry["data_offsets"]] for name, entry in entries.items()]
    return f"{manifest}\n{json.dumps(layout)}".encode()


def read(path: Path, thorough: bool = False) -> Compiled:
    """Map a file, and if `thorough` check the constants too; ArtifactError says what is wrong with it."""
    try:
        size = path.stat().st_size
        data = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from None
    try:
        return _parse(data, size, thorough)
    except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError, AttributeError) as error:
        raise ArtifactError(
            f"{path.name} is not a .tallow file, or is damaged ({type(error).__name__}: {error})"
        ) from None
    except TallowError as error:
        raise ArtifactError(f"{path.name}: {error}") from None


def _parse(data: np.ndarray, size: int, thorough: bool) -> Compiled:
    length = int.from_bytes(bytes(data[:8]), "little")
    if size < 8 or length > min(size - 8, LARGEST_HEADER):
        raise ArtifactError("it is not a .tallow file, or is truncated")
    header = json.loads(bytes(data[8 : 8 + length]))
    metadata = header.get("__metadata__", {})
    if "tallow" not in metadata:
        raise ArtifactError(
            "it is a safetensors file without a Tallow manifest: expected one written by save"
        )
    text = metadata["tallow"]
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if _digest(_signed(text, entries)) != metadata.get("tallow.sha256"):
        raise ArtifactError("its manifest is damaged: compile the model again")
    manifest = json.loads(text)
    if manifest["format"] != FORMAT:
        raise ArtifactError(
            f"it has format {manifest['format']}, this Tallow reads {FORMAT}: compile the model again"
        )
    arrays = {}
    for name, entry in entries.items():
        start, stop = entry["data_offsets"]
        if not 0 <= start <= stop <= size - 8 - length:
            raise ArtifactError(f"tensor {name} lies outside the file: it is truncated")
        arrays[name] = data[8 + length + start : 8 + length + stop]
    if len(manifest["targets"]) != 1:
        made = ", ".join(f"{t['target']['backend']}:{t['target']['arch']}" for t in manifest["targets"])
        raise ArtifactError(
            f"it holds code for {made or 'no target'}: this Tallow opens files that hold code for one"
        )
    (target,) = manifest["targets"]
    return _restore(target, manifest, arrays, thorough)


def _restore(target: dict, manifest: dict, arrays: Mapping[str, np.ndarray], thorough: bool) -> Compiled:
    described = [target, *target["others"]]
    parts = [_part(each, arrays, f"{n}." if n else "") for n, each in enumerate(described)]
    if thorough:
        for name, (size, checksum) in target["checksums"].items():
            if zlib.crc32(arrays[name][:size]) != checksum:
                raise ArtifactError(f"tensor {name} is damaged: compile the model again")
    first, *others = parts
    compiled = Compiled(
        decode(target["program"], arrays),
        first.target,
        first.code,
        first.constants,
        manifest["metadata"],
        first.tuning,
        tuple(others),
    )
    if max(compiled.used) > len(others):
        raise ArtifactError("it has steps for a device that it holds no code for: compile the model again")
    return compiled


def _part(target: dict, arrays: Mapping[str, np.ndarray], prefix: str) -> Part:
    """What a device has, its code checked."""
    blob = bytes(arrays[f"{prefix}code"][: target["code"]["size"]])
    constants = {key: _array(entry, arrays) for key, entry in target["constants"].items()}
    sizes = {name: size for name, (size, _) in target["support"].items()}
    support = {name: bytes(arrays[f"{prefix}support.{name}"][:size]) for name, size in sizes.items()}
    digests = {name: digest for name, (_, digest) in target["support"].items()}
    if _digest(blob) != target["code"]["sha256"] or any(_digest(support[n]) != d for n, d in digests.items()):
        raise ArtifactError("its machine code is damaged: compile the model again")
    described = target["target"]
    made_for = Target(**{**described, "features": tuple(described["features"])})
    code = Code(blob, target["entries"], support, target["notes"])
    return Part(made_for, code, constants, decode(target["tuning"], arrays))
