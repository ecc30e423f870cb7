"""Tensors of `.safetensors` files, mapped: nothing is read until a kernel or a packing pass reads it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tallow.dtype import DTYPES
from tallow.errors import ImportFailed

_NAMES = {
    **{"F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "F8_E4M3": "f8e4m3", "F8_E5M2": "f8e5m2"},
    **{"I64": "i64", "I32": "i32", "I16": "i16", "I8": "i8", "BOOL": "bool"},
    **{"U64": "u64", "U32": "u32", "U16": "u16", "U8": "u8"},
}
LARGEST_HEADER = 100 << 20


class Weights(Mapping[str, np.ndarray]):
    """The tensors of one file, or of a folder's shards, by name. Asking for one that is missing is an
    ImportFailed that names it."""

    def __init__(self, path: Path):
        self.path = path
        self.arrays: dict[str, np.ndarray] = {}
        for file in _files(path):
            self.arrays |= _read(file)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise ImportFailed(f"{self.path.name} has no tensor {name!r}: expected one of this architecture")
        return self.arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def _files(path: Path) -> list[Path]:
    """The file itself; or a folder's model.safetensors, or the shards that its index names."""
    if path.is_file():
        return [path]
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        return [path / "model.safetensors"]
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    outside = [n for n in names if (path / n).resolve().parent != path.resolve()]
    if outside:
        raise ImportFailed(f"{index.name} names {outside[0]!r}, which is outside the model's folder: refused")
    return [path / n for n in names]


def _read(file: Path) -> dict[str, np.ndarray]:
    """Views of a mapped file. Source: the safetensors format, huggingface.co/docs/safetensors."""
    try:
        data = np.memmap(file, np.uint8, "r")
        length = int.from_bytes(bytes(data[:8]), "little")
        if length > min(data.size - 8, LARGEST_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {data.size}")
        header = json.loads(bytes(data[8 : 8 + length]))
        body = data[8 + length :]
        return {name: _tensor(name, entry, body) for name, entry in header.items() if name != "__metadata__"}
    except OSError as error:
        raise ImportFailed(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ImportFailed(f"{file.name} is not a safetensors file, or is damaged: {error}") from None


def _tensor(name: str, entry: dict, body: np.ndarray) -> np.ndarray:
    dtype = DTYPES[_NAMES[entry["dtype"]]]
    start, stop = entry["data_offsets"]
    shape = entry["shape"]
    if not 0 <= start <= stop <= body.size or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"tensor {name} of {dtype}{shape} does not fill bytes {start}..{stop}")
    return body[start:stop].view(dtype.numpy).reshape(shape)
