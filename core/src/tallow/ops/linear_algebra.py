"""Determinants, inverses, Fourier transforms, and probabilities of classes from those of pairs."""

from __future__ import annotations

import numpy as np

from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.rules import axis_in, of_kind, rank_is, tensors
from tallow.ops.table import Op, register


def _infer_square(name, result):
    def infer(types, attributes):
        (x,) = tensors(name, types)
        of_kind(name, x.dtype, ("float",))
        if x.rank < 2 or (all(isinstance(d, int) for d in x.shape[-2:]) and x.shape[-1] != x.shape[-2]):
            raise GraphError(f"{name}: expected square matrices, got {x}")
        return (TensorType(x.dtype, result(x.shape)),)

    return infer


def _infer_dft(types, attributes):
    (x,) = tensors("dft", types)
    of_kind("dft", x.dtype, ("float",))
    axis = axis_in("dft", attributes["axis"], x.rank - 1)
    if isinstance(x.shape[-1], int) and x.shape[-1] not in (1, 2):
        raise GraphError(f"dft: expected real numbers [..., 1] or complex ones [..., 2], got {x}")
    length = attributes["length"]
    if attributes["onesided"] and attributes["inverse"]:
        return (TensorType(x.dtype, (*x.shape[:axis], length, *x.shape[axis + 1 : -1], 1)),)
    bins = length // 2 + 1 if attributes["onesided"] else length
    return (TensorType(x.dtype, (*x.shape[:axis], bins, *x.shape[axis + 1 : -1], 2)),)


def _evaluate_dft(arrays, attributes):
    """Real ([..., 1]) or complex ([..., 2]) signals along `axis`, cut or filled with zeros to `length`."""
    (x,) = arrays
    axis, length = attributes["axis"], attributes["length"]
    signal = x[..., 0] if x.shape[-1] == 1 else x[..., 0] + 1j * x[..., 1]
    if attributes["onesided"] and attributes["inverse"]:
        return (np.fft.irfft(signal, length, axis)[..., None].astype(x.dtype),)
    result = (np.fft.ifft if attributes["inverse"] else np.fft.fft)(signal, length, axis)
    if attributes["onesided"]:
        result = np.take(result, np.arange(length // 2 + 1), axis)
    return (np.stack([result.real, result.imag], -1).astype(x.dtype),)


def _wide(array):
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _infer_couple(types, attributes):
    (x,) = tensors("couple_pairs", types)
    rank_is("couple_pairs", x, 2, "probabilities of pairs")
    classes = attributes["classes"]
    if isinstance(x.shape[1], int) and x.shape[1] != classes * (classes - 1) // 2:
        raise GraphError(f"couple_pairs: {x} does not hold the pairs of {classes} classes")
    return (TensorType(x.dtype, (x.shape[0], classes)),)


def _evaluate_couple(arrays, attributes):
    """Probabilities of classes that fit those of pairs best (Wu, Lin and Weng, 2004, method 2), every row
    iterated until it has settled as LIBSVM does."""
    (pairs,) = arrays
    k, rows = attributes["classes"], len(pairs)
    r = np.zeros((rows, k, k), np.float64)
    first, second = np.triu_indices(k, 1)
    r[:, first, second], r[:, second, first] = pairs, 1 - pairs.astype(np.float64)
    q = -r.transpose(0, 2, 1) * r
    q[:, range(k), range(k)] = (r**2).sum(1)
    p = np.full((rows, k), 1 / k)
    for _ in range(max(100, k)):
        qp = np.einsum("nij,nj->ni", q, p)
        pqp = (p * qp).sum(1)
        moving = np.abs(qp - pqp[:, None]).max(1, initial=0.0) >= 0.005 / k
        if not moving.any():
            break
        for t in range(k):
            diff = np.where(moving, (pqp - qp[:, t]) / q[:, t, t], 0.0)
            p[:, t] += diff
            pqp = (pqp + diff * (diff * q[:, t, t] + 2 * qp[:, t])) / (1 + diff) ** 2
            qp = (qp + diff[:, None] * q[:, t]) / (1 + diff)[:, None]
            p /= (1 + diff)[:, None]
    return (p.astype(pairs.dtype),)


register(
    Op(
        "det",
        "host",
        _infer_square("det", lambda shape: shape[:-2]),
        lambda arrays, a: (np.asarray(np.linalg.det(_wide(arrays[0]))).astype(arrays[0].dtype),),
    )
)
register(
    Op(
        "inverse",
        "host",
        _infer_square("inverse", lambda shape: shape),
        lambda arrays, a: (np.linalg.inv(_wide(arrays[0])).astype(arrays[0].dtype),),
    )
)
register(Op("dft", "host", _infer_dft, _evaluate_dft))
register(Op("couple_pairs", "host", _infer_couple, _evaluate_couple))
