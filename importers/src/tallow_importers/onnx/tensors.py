"""Tensors of an ONNX file as arrays: views of the file's bytes wherever the layout allows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from tallow.dtype import DTYPES, DType
from tallow.errors import ImportFailed

ONNX_DTYPES: dict[int, DType] = {
    TensorProto.FLOAT: DTYPES["f32"],
    TensorProto.DOUBLE: DTYPES["f64"],
    TensorProto.FLOAT16: DTYPES["f16"],
    TensorProto.BFLOAT16: DTYPES["bf16"],
    TensorProto.FLOAT8E4M3FN: DTYPES["f8e4m3"],
    TensorProto.FLOAT8E4M3FNUZ: DTYPES["f8e4m3fnuz"],
    TensorProto.FLOAT8E5M2: DTYPES["f8e5m2"],
    TensorProto.FLOAT8E5M2FNUZ: DTYPES["f8e5m2fnuz"],
    TensorProto.INT64: DTYPES["i64"],
    TensorProto.INT32: DTYPES["i32"],
    TensorProto.INT16: DTYPES["i16"],
    TensorProto.INT8: DTYPES["i8"],
    TensorProto.UINT64: DTYPES["u64"],
    TensorProto.UINT32: DTYPES["u32"],
    TensorProto.UINT16: DTYPES["u16"],
    TensorProto.UINT8: DTYPES["u8"],
    TensorProto.BOOL: DTYPES["bool"],
    TensorProto.STRING: DTYPES["string"],
    TensorProto.COMPLEX64: DTYPES["c64"],
    TensorProto.COMPLEX128: DTYPES["c128"],
    **{
        getattr(TensorProto, name): DTYPES[ours]
        for name, ours in (
            ("INT4", "i4"),
            ("UINT4", "u4"),
            ("FLOAT4E2M1", "f4e2m1"),
            ("FLOAT8E8M0", "f8e8m0"),
            ("INT2", "i2"),
            ("UINT2", "u2"),
        )
        if hasattr(TensorProto, name)
    },
}
LARGEST = 1 << 40  # bytes; a tensor that claims more is a damaged file


def dtype_of(number: int, where: str) -> DType:
    if number not in ONNX_DTYPES:
        raise ImportFailed(f"{where}: unknown ONNX data type {number}")
    return ONNX_DTYPES[number]


def to_array(tensor: TensorProto, folder: Path | None, raw: np.ndarray | None = None) -> np.ndarray:
    """The tensor's values, not to be written to; they may start anywhere in memory. `raw`: its raw data,
    where they were cut out of it."""
    where = f'tensor "{tensor.name}"'
    dtype = dtype_of(tensor.data_type, where)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape) or math.prod(shape) * max(dtype.itemsize, 1) > LARGEST:
        raise ImportFailed(f"{where}: impossible shape {list(shape)}")
    count = math.prod(shape)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _from_bytes(_external(tensor, folder, where), dtype, shape, where)
    if dtype.kind == "string":
        if len(tensor.string_data) != count:
            raise ImportFailed(f"{where}: {len(tensor.string_data)} strings do not fill shape {list(shape)}")
        values = np.empty(count, object)
        values[:] = [s.decode("utf-8", "replace") for s in tensor.string_data]
        return values.reshape(shape)
    if raw is not None or tensor.HasField("raw_data"):
        return _from_bytes(tensor.raw_data if raw is None else raw, dtype, shape, where)
    return _from_fields(tensor, dtype, shape, where)


def _from_bytes(data, dtype: DType, shape: tuple[int, ...], where: str) -> np.ndarray:
    count = math.prod(shape)
    if dtype.bits < 8:
        per_byte = 8 // dtype.bits
        needed = -(-count // per_byte)
        raw = np.frombuffer(data, np.uint8)
        _check_size(raw.size, needed, dtype, shape, where)
        return _unpack(raw, dtype, count).reshape(shape)
    raw = np.frombuffer(data, np.uint8)
    _check_size(raw.size, count * dtype.itemsize, dtype, shape, where)
    return raw.view(dtype.numpy).reshape(shape)


def _check_size(have: int, need: int, dtype: DType, shape, where: str) -> None:
    if have != need:
        raise ImportFailed(
            f"{where}: expected {need} bytes for {dtype}{list(shape)}, got {have}: the file is damaged"
        )


def _unpack(raw: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Elements of 2 or 4 bits, lowest bits first, one to a byte."""
    bits, mask = dtype.bits, (1 << dtype.bits) - 1
    parts = np.stack([(raw >> shift) & mask for shift in range(0, 8, bits)], -1).reshape(-1)[:count]
    if dtype.is_float:
        return parts.astype(np.uint8).view(dtype.numpy)
    if dtype.kind == "int":
        half = 1 << (bits - 1)
        return (parts.astype(np.int8) - np.where(parts >= half, 2 * half, 0).astype(np.int8)).astype(
            dtype.numpy
        )
    return parts.astype(np.uint8).astype(dtype.numpy)


def _from_fields(tensor: TensorProto, dtype: DType, shape, where: str) -> np.ndarray:
    """Values in the typed fields; 16-bit and smaller ones are packed into int32_data as bit patterns."""
    count = math.prod(shape)
    if dtype.name in ("c64", "c128"):
        field = tensor.float_data if dtype.name == "c64" else tensor.double_data
        flat = np.array(field, np.float32 if dtype.name == "c64" else np.float64).view(dtype.numpy)
    elif dtype.name == "f32":
        flat = np.array(tensor.float_data, np.float32)
    elif dtype.name == "f64":
        flat = np.array(tensor.double_data, np.float64)
    elif dtype.name == "i64":
        flat = np.array(tensor.int64_data, np.int64)
    elif dtype.name in ("u32", "u64"):
        flat = np.array(tensor.uint64_data, np.uint64).astype(dtype.numpy)
    else:
        words = np.array(tensor.int32_data, np.int64)
        if dtype.bits < 8:
            flat = _unpack(words.astype(np.uint8), dtype, count)
        elif dtype.is_float:
            flat = words.astype(np.uint16 if dtype.itemsize == 2 else np.uint8).view(dtype.numpy)
        else:
            flat = words.astype(dtype.numpy)
    if flat.size != count:
        raise ImportFailed(
            f"{where}: {flat.size} values do not fill shape {list(shape)}: the file is damaged"
        )
    return flat.reshape(shape)


def _external(tensor: TensorProto, folder: Path | None, where: str) -> np.ndarray:
    """The bytes of a tensor kept in another file of the model's folder, mapped, not read."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    if folder is None:
        raise ImportFailed(
            f"{where}: its data is in another file, and a model in memory has no folder: load it from its path"
        )
    name = facts.get("location", "")
    path = (folder / name.replace("\0", "")).resolve()
    if not name or "\0" in name or Path(name).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise ImportFailed(f"{where}: external data {name!r} is outside the model's folder, which is refused")
    if not path.is_file():
        raise ImportFailed(f"{where}: external data file {name!r} is missing beside the model")
    size = path.stat().st_size
    try:
        offset = int(facts.get("offset", 0))
        length = int(facts.get("length", size - offset))
    except ValueError:
        raise ImportFailed(f"{where}: external data has an offset or length that is no number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ImportFailed(
            f"{where}: external data {offset}..{offset + length} is beyond {name!r} ({size} bytes)"
        )
    if length == 0:
        return np.empty(0, np.uint8)
    return np.memmap(path, np.uint8, "r", offset, (length,))


def sparse_to_dense(sparse: onnx.SparseTensorProto, folder: Path | None) -> np.ndarray:
    """A sparse initializer written out."""
    values, indices = to_array(sparse.values, folder), to_array(sparse.indices, folder)
    shape = tuple(sparse.dims)
    if any(d < 0 for d in shape) or math.prod(shape) * values.itemsize > LARGEST:
        raise ImportFailed(f'sparse tensor "{sparse.values.name}": impossible shape {list(shape)}')
    dense = np.zeros(math.prod(shape), values.dtype)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    if flat.size and (flat.min() < 0 or flat.max() >= dense.size):
        raise ImportFailed(f'sparse tensor "{sparse.values.name}": an index is outside shape {list(shape)}')
    dense[flat] = values
    return dense.reshape(shape)
