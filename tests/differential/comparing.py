"""One random graph through Tallow and onnxruntime: what differs, and in which node."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from drafts import TOLERANCES, Draft, Value
from more_rules import EVERYDAY
from rules import RULES, grow

import tallow
from tallow.errors import TallowError

OPSETS = (13, 15, 16, 17, 18, 19, 20, 21, 22)
NODES = 6


@dataclass(frozen=True)
class Finding:
    """What went wrong, and with which model."""

    what: str
    model: onnx.ModelProto


def draft_of(seed: int, everyday: bool = False) -> Draft:
    """The graph of a seed; `everyday` leaves the rules of `more_rules` out."""
    choices = random.Random(seed)
    draft = Draft(choices, choices.choice(OPSETS))
    grow(draft, NODES, EVERYDAY if everyday else tuple(RULES))
    return draft


def difference(value: Value, got) -> str | None:
    """How our result differs from onnxruntime's, or None."""
    want = value.array
    got = np.asarray(got)
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind != "f":
        bad = got != want
    else:
        bound = max(value.tolerance, TOLERANCES[want.dtype.name]) * max(value.magnitude, 1.0)
        with np.errstate(invalid="ignore", over="ignore"):
            near = np.abs(got.astype("f8") - want.astype("f8")) <= bound
        bad = ~(near | (got == want) | (np.isnan(got) & np.isnan(want)))
    if not bad.any():
        return None
    place = tuple(np.argwhere(bad)[0].tolist()) if bad.ndim else ()
    return f"{got[place]} instead of {want[place]} at {place}, {int(bad.sum())} of {bad.size} differ"


def check(draft: Draft) -> Finding | None:
    """A graph run and compared; None when nothing differs (or there are no nodes)."""
    if not draft.nodes:
        return None
    model = draft.model()
    found = run(draft, model)
    if found is None:
        return None
    precise = run(draft, draft.model(everything=True))
    return Finding(f"{found}; with every value a result: {precise or 'no difference'}", model)


def run(draft: Draft, model: onnx.ModelProto) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        try:
            results = tallow.compile(path).run(draft.feed(model))
        except TallowError as error:
            return f"refused: {type(error).__name__}: {error}"
    values = {v.name: v for v in draft.values}
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for name, got in results.items():
        text = difference(values[name], got)
        if text is not None:
            return f"{makers[name]} {name}: {text}"
    return None
