"""Preparation of features in ai.onnx.ml: scaling, encoding, dictionaries."""

from __future__ import annotations

import numpy as np

from tallow.dtype import DType, dtype, f32, i64, string
from tallow.graph import MapType, Value
from tallow.ops.strings import objects
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.ml_scores import ML, class_labels
from tallow_importers.onnx.registry import onnx_op

SPREAD = 8  # entries that a table of consecutive whole numbers may have for each key
COMPARED = 32  # keys up to which a table of numbers is searched by comparing with all of them


def _floats(context: Context, node: NodeView, name: str, default: float) -> Value:
    return context.builder.constant(np.array(node.attribute(name) or [default], np.float32))


@onnx_op("Scaler", domain=ML)
def scaler(context: Context, node: NodeView) -> Value:
    b = context.builder
    x = b.cast(node.input(0), dtype=f32)
    return b.mul(b.sub(x, _floats(context, node, "offset", 0.0)), _floats(context, node, "scale", 1.0))


@onnx_op("Binarizer", domain=ML)
def binarizer(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    return b.cast(
        b.gt(x, b.cast(b.scalar(node.attribute("threshold", 0.0), f32), dtype=x.dtype)), dtype=x.dtype
    )


@onnx_op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(context: Context, node: NodeView) -> Value:
    x, places = node.inputs
    b = context.builder
    flat = b.reshape(places, shape=(places.type.size,))
    picked = b.gather(x, flat, axis=x.rank - 1)
    return b.reshape(picked, shape=(1, places.type.size)) if x.rank == 1 else picked


@onnx_op("Normalizer", domain=ML)
def normalizer(context: Context, node: NodeView) -> Value:
    """Each row over its norm; a row of norm 0 stays."""
    b = context.builder
    x = b.cast(node.input(0), dtype=f32)
    axes = (x.rank - 1,)
    match node.attribute("norm", "MAX"):
        case "L1":
            norm = b.reduce(b.abs(x), function="add", axes=axes, keepdims=True)
        case "L2":
            norm = b.sqrt(b.reduce(b.mul(x, x), function="add", axes=axes, keepdims=True))
        case "MAX":
            norm = b.reduce(b.abs(x), function="max", axes=axes, keepdims=True)
        case other:
            context.unsupported(f"norm {other!r}")
    return b.select(b.eq(norm, 0), x, b.div(x, norm))


@onnx_op("Imputer", domain=ML)
def imputer(context: Context, node: NodeView) -> Value:
    b, x = context.builder, node.input(0)
    whole = x.dtype.is_integer
    values = node.attribute("imputed_value_int64s" if whole else "imputed_value_floats")
    replaced = node.attribute("replaced_value_int64" if whole else "replaced_value_float", 0)
    if not values:
        context.unsupported(f"no imputed values for {x.dtype}")
    missing = b.isnan(x) if replaced != replaced else b.eq(x, replaced)
    return b.select(missing, b.constant(np.array(values, x.dtype.numpy)), x)


@onnx_op("OneHotEncoder", domain=ML)
def one_hot_encoder(context: Context, node: NodeView) -> Value:
    """A column of 0 and 1 for each category; with zeros=0 a value of no category is refused by the run."""
    b, x = context.builder, node.input(0)
    names, numbers = node.attribute("cats_strings"), node.attribute("cats_int64s")
    if (x.dtype == string) != bool(names):
        context.unsupported(f"{x.dtype} for categories that are {'strings' if names else 'integers'}")
    if names:
        place = b.lookup(x, **_table(names, list(range(len(names))), -1, i64))
        count = len(names)
        categories = b.iota(shape=(count,), axis=0, dtype=i64)
    else:
        place, count = b.cast(x, dtype=i64), len(numbers)
        categories = b.constant(np.array(numbers, np.int64))
    if not node.attribute("zeros", 1):
        place = b.known_only(place, keys=np.arange(count) if names else np.array(numbers, np.int64))
    return b.cast(b.eq(b.reshape(place, shape=(*x.shape, 1)), categories), dtype=f32)


def _table(keys, values, default, value_dtype: DType) -> dict:
    """Attributes of a lookup; of keys that come twice the last counts."""
    last = dict(zip(keys, values, strict=True))
    strings = isinstance(next(iter(last), None), str)
    as_keys = objects(list(last), (-1,)) if strings else np.array(list(last))
    as_values = list(last.values())
    if value_dtype == string:
        return {"keys": as_keys, "values": objects(as_values, (-1,)), "default": default, "dtype": string}
    carrier = value_dtype.numpy
    return {
        "keys": as_keys,
        "values": np.array(as_values).astype(carrier),
        "default": default,
        "dtype": value_dtype,
    }


def _looked_up(context: Context, x: Value, table: dict) -> Value:
    """The value beside each element's key: whole numbers close together from a table, few others by
    comparison, both in a kernel; the rest on the host."""
    b, keys, values, kind = context.builder, table["keys"], table["values"], table["dtype"]
    if keys.dtype == object or values.dtype == object:
        return b.lookup(x, **table)
    default, keys = b.scalar(table["default"], kind), keys.astype(x.dtype.numpy)
    if x.dtype.is_integer and len(keys):
        low, high = int(keys.min()), int(keys.max())
        if high - low < SPREAD * len(keys):
            dense = np.full(high - low + 1, table["default"], values.dtype)
            dense[keys.astype(np.int64) - low] = values
            at = b.sub(b.cast(x, dtype=i64), low)
            inside = b.and_(b.ge(at, 0), b.le(at, high - low))
            return b.select(
                inside, b.gather(b.constant(dense), b.max(b.min(at, high - low), 0), axis=0), default
            )
    if len(keys) > COMPARED:
        return b.lookup(x, **{**table, "keys": keys})
    result = b.broadcast(default, shape=x.shape)
    for key, value in zip(keys, values, strict=True):
        found = b.isnan(x) if key != key else b.eq(x, b.scalar(key, x.dtype))
        result = b.select(found, b.scalar(value, kind), result)
    return result


_KINDS = {"strings": (string, "_Unused"), "int64s": (i64, -1), "floats": (f32, -0.0)}


@onnx_op("LabelEncoder", domain=ML)
def label_encoder(context: Context, node: NodeView) -> Value:
    """Version 1 numbers a list of classes; the later ones map keys to values of any two kinds."""
    x, classes = node.input(0), node.attribute("classes_strings")
    if classes:
        numbers = list(range(len(classes)))
        if x.dtype == string:
            return _looked_up(context, x, _table(classes, numbers, node.attribute("default_int64", -1), i64))
        default = node.attribute("default_string", "_Unused")
        return _looked_up(context, x, _table(numbers, classes, default, string))
    keys, _, _ = _listed(context, node, "keys")
    values, kind, default = _listed(context, node, "values")
    if (x.dtype == string) != isinstance(next(iter(keys), ""), str):
        context.unsupported(f"keys of another kind than its operand, {x.dtype}")
    return _looked_up(context, x, _table(keys, values, default, kind))


def _listed(context: Context, node: NodeView, side: str):
    """The keys or values, their dtype and the default that goes with them."""
    tensor = node.attribute(f"{side}_tensor")
    if tensor is not None:
        array = context.tensor(tensor).reshape(-1)
        given = node.attribute("default_tensor")
        kind = dtype(array.dtype)
        default = "_Unused" if kind == string else -1
        return (
            array.tolist(),
            kind,
            default if given is None else context.tensor(given).reshape(-1).tolist()[0],
        )
    for name, (kind, default) in _KINDS.items():
        if node.attribute(f"{side}_{name}"):
            return node.attribute(f"{side}_{name}"), kind, node.attribute(f"default_{name[:-1]}", default)
    context.unsupported(f"no {side}")


@onnx_op("CategoryMapper", domain=ML)
def category_mapper(context: Context, node: NodeView) -> Value:
    x, names, numbers = node.input(0), node.attribute("cats_strings"), node.attribute("cats_int64s")
    if x.dtype == string:
        return _looked_up(context, x, _table(names, numbers, node.attribute("default_int64", -1), i64))
    default = node.attribute("default_string", "_Unused")
    return _looked_up(context, x, _table(numbers, names, default, string))


@onnx_op("FeatureVectorizer", domain=ML)
def feature_vectorizer(context: Context, node: NodeView) -> Value:
    """Columns side by side, each operand cut or padded with zeros to its stated width."""
    b, parts = context.builder, []
    widths = node.attribute("inputdimensions") or [None] * len(node.inputs)
    for value, width in zip(node.inputs, widths, strict=True):
        x = b.cast(value, dtype=f32)
        x = b.reshape(x, shape=(1, *x.shape)) if x.rank == 1 else x
        have = x.shape[1]
        if width is not None and have != width:
            if not isinstance(have, int):
                context.unsupported("an operand whose width is not known while importing")
            if have > width:
                x = b.slice(x, starts=(0, 0), steps=(1, 1), shape=(x.shape[0], width))
            else:
                x = b.pad(x, before=(0, 0), after=(0, width - have), mode="constant")
        parts.append(x)
    return b.concat(*parts, axis=1)


@onnx_op("ZipMap", domain=ML)
def zip_map(context: Context, node: NodeView) -> Value:
    x, labels = node.input(0), class_labels(node, "classlabels_int64s")
    if x.rank == 1:
        x = context.builder.reshape(x, shape=(1, *x.shape))
    return context.builder.zip_map(x, keys=labels)


@onnx_op("DictVectorizer", domain=ML)
def dict_vectorizer(context: Context, node: NodeView) -> Value:
    names = node.attribute("string_vocabulary")
    keys = objects(names, (-1,)) if names else np.array(node.attribute("int64_vocabulary"), np.int64)
    type_ = node.input(0).type
    kind = getattr(type_.element, "dtype", f32) if isinstance(type_, MapType) else f32
    return context.builder.map_spread(node.input(0), keys=keys, width=len(keys), dtype=kind)


_CASTS = {"TO_FLOAT": f32, "TO_INT64": i64, "TO_STRING": string}


@onnx_op("CastMap", domain=ML)
def cast_map(context: Context, node: NodeView) -> Value:
    kind = _CASTS[node.attribute("cast_to", "TO_FLOAT")]
    if node.attribute("map_form", "DENSE") == "DENSE":
        defines = (context.fresh_name(),)
        return context.builder.map_spread(node.input(0), keys=None, dtype=kind, defines=defines)
    keys = np.arange(node.attribute("max_map", 1))
    return context.builder.map_spread(node.input(0), keys=keys, width=len(keys), dtype=kind)
