"""Element types: each is found by its name, by the numpy dtype that carries it, and by no other."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tallow.dtype import DTYPES, dtype
from tallow.errors import GraphError


@pytest.mark.parametrize("row", DTYPES.values(), ids=str)
def test_every_way_to_name_one(row):
    assert dtype(row) is row and dtype(row.name) is row and dtype(row.numpy) is row
    assert row.itemsize == row.numpy.itemsize >= row.bits / 8
    if row.kind != "string":
        assert dtype(row.numpy.type) is row


@pytest.mark.parametrize("name, given", [("f32", ">f4"), ("i64", int), ("f64", float), ("bool", "?")])
def test_numpy_names(name, given):
    assert dtype(given) is DTYPES[name]


def test_strings_of_numpy():
    assert dtype("U3") is dtype("S2") is dtype(object) is DTYPES["string"]


@pytest.mark.parametrize(
    "given", ["f33", "datetime64[s]", "V4", np.longdouble, [("a", "f4")], ml_dtypes.float8_e3m4]
)
def test_what_is_none(given):
    with pytest.raises(GraphError, match="expected one of f64, f32"):
        dtype(given)
