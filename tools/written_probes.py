"""Nodes for operators of which ONNX has no node test: a row for each, written in one line.

Operands are a dtype and its sizes, or what holds such: `seq(T)`, `optional(T)`, `map(i64,T)`. The first with sizes is an
input of the model, and so is what holds others; the rest are constants, as models mostly have them: of ones, of the value
after `=`, or the values in parentheses. `-` is an operand that is left out. T stands for each dtype that is tried.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from tallow.dtype import DTYPES
from tallow_importers.onnx.tensors import ONNX_DTYPES

ML, MS = "ai.onnx.ml", "com.microsoft"
NUMBERS = {dtype.name: number for number, dtype in ONNX_DTYPES.items()}
OPSET = 22  # of ai.onnx
OPERAND = re.compile(r"(?P<dtype>\w+)(\[(?P<sizes>[\d,]*)\])?(=(?P<fill>[-\d.]+)|\((?P<values>[-\d.,]+)\))?")
HELD = re.compile(r"(?P<kind>seq|optional|map)\(((?P<key>\w+),)?(?P<dtype>\w+)\)")


@dataclass(frozen=True, slots=True)
class Row:
    """A node: its operands, attributes (the text T is the number of the dtype), and the dtypes that T stands for; none
    are those that ONNX's schema allows."""

    domain: str
    op: str
    operands: str
    dtypes: tuple[str, ...]
    attributes: dict[str, object]


ROWS: dict[tuple[str, str], list[Row]] = defaultdict(list)  # an operator has more if its dtypes need more


def row(domain: str, op: str, operands: str, dtypes: str = "", **attributes) -> None:
    ROWS[domain, op].append(Row(domain, op, operands, tuple(dtypes.split()), attributes))


def models(domain: str, op: str) -> dict[str, onnx.ModelProto]:
    """A model of the operator for each dtype; none where it has no row."""
    rows = ROWS.get((domain, op), ())
    return {dtype: model(row, dtype) for row in rows for dtype in row.dtypes or of_schema(row)}


def element(kind: str) -> str | None:
    """Our name of the element type in a type of ONNX's schemas, `seq(tensor(float))` or `map(int64, float)`."""
    number = getattr(onnx.TensorProto, re.findall(r"\w+", kind)[-1].upper(), None)
    return ONNX_DTYPES[number].name if number in ONNX_DTYPES else None


def last_schema(domain: str, op: str) -> onnx.defs.OpSchema:
    """The newest of an operator that is not deprecated."""
    found = (s for s in onnx.defs.get_all_schemas_with_history() if (s.domain, s.name) == (domain, op))
    return max((s for s in found if not s.deprecated), key=lambda s: s.since_version)


def of_schema(row: Row) -> list[str]:
    """The dtypes that ONNX allows where the row has a T: its first such operand, or the result."""
    schema = last_schema(row.domain, row.op)
    at = [number for number, word in enumerate(row.operands.split()) if re.search(r"\bT\b", word)]
    kind = schema.inputs[at[0]].type_str if at else schema.outputs[0].type_str
    allowed = next((c.allowed_type_strs for c in schema.type_constraints if c.type_param_str == kind), [kind])
    return [name for name in dict.fromkeys(map(element, allowed)) if name is not None]


def model(row: Row, dtype: str) -> onnx.ModelProto:
    """A row's node as a model."""
    names, inputs, constants = [], [], []
    for number, word in enumerate(row.operands.split()):
        names.append("" if word == "-" else f"x{number}")
        if word != "-":
            given = _operand(names[-1], word, dtype, as_input=not inputs)
            (inputs if isinstance(given, onnx.ValueInfoProto) else constants).append(given)
    attributes = {key: NUMBERS[dtype] if value == "T" else value for key, value in row.attributes.items()}
    node = helper.make_node(row.op, names, ["y"], domain=row.domain, **attributes)
    results = [onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([node], row.op, inputs, results, constants)
    opsets = {"": OPSET, MS: 1}
    opsets.setdefault(row.domain, last_schema(row.domain, row.op).since_version if row.domain == ML else 1)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*each) for each in opsets.items()])


def _operand(name: str, word: str, dtype: str, as_input: bool) -> onnx.ValueInfoProto | onnx.TensorProto:
    held = HELD.fullmatch(word)
    if held:
        return helper.make_value_info(name, _held(held, dtype))
    parts = OPERAND.fullmatch(word)
    if parts is None:
        raise ValueError(f"operand {word!r}: expected a dtype with sizes, a value or values")
    kind = dtype if parts["dtype"] == "T" else parts["dtype"]
    sizes = [int(size) for size in (parts["sizes"] or "").split(",") if size]
    if as_input and parts["sizes"] is not None and parts["fill"] is None:
        return helper.make_tensor_value_info(name, NUMBERS[kind], sizes)
    if parts["values"]:
        array = np.array([float(v) for v in parts["values"].split(",")])
    else:
        array = np.full(sizes, float(parts["fill"] or 1))
    array = array.astype(str).astype(object) if kind == "string" else array.astype(DTYPES[kind].numpy)
    return onnx.numpy_helper.from_array(array, name)


def _held(parts: re.Match, dtype: str) -> onnx.TypeProto:
    """The type of a sequence, an optional or a map."""
    number = NUMBERS[dtype if parts["dtype"] == "T" else parts["dtype"]]
    tensor = helper.make_tensor_type_proto(number, [2])
    match parts["kind"]:
        case "seq":
            return helper.make_sequence_type_proto(tensor)
        case "optional":
            return helper.make_optional_type_proto(tensor)
    return helper.make_map_type_proto(NUMBERS[parts["key"]], helper.make_tensor_type_proto(number, []))


# ai.onnx -------------------------------------------------------------------------------------------

FLOATS, CODES = "f64 f32 f16 bf16", "i8 u8"
OLD, HALF = "f64 f32 f16", "f32 f16"
NORMAL = "f32 f16 bf16"  # what onnxruntime's operators for transformers take
EVERY = "f64 f32 f16 i64 i32 i16 i8 u64 u32 u16 u8 bool c64 c128 string"

row("", "Affine", "T[2,3]", OLD, alpha=2.0, beta=1.0)
row("", "ConcatFromSequence", "seq(T)", axis=0)
row("", "Crop", "T[1,1,4,4]", OLD, border=[1, 1, 1, 1])
row("", "DynamicSlice", "T[3,3] i64(0,0) i64(2,2)", EVERY)
row("", "GlobalLpPool", "T[1,1,4,4]", p=2)
row("", "ImageScaler", "T[1,2,3,3]", OLD, bias=[0.0, 1.0], scale=2.0)
row("", "MaxRoiPool", "T[1,1,4,4] T[1,5]=0", pooled_shape=[2, 2])
row("", "Multinomial", "T[2,3]")
row("", "Optional", "T[2]")
row("", "OptionalHasElement", "optional(T)")
row("", "ParametricSoftplus", "T[2,3]", OLD, alpha=1.0, beta=1.0)
row("", "RandomNormal", "", dtype="T", shape=[2, 3])
row("", "RandomNormalLike", "f32[2,3]", dtype="T")
row("", "RandomUniform", "", dtype="T", shape=[2, 3])
row("", "RandomUniformLike", "f32[2,3]", dtype="T")
row("", "Scale", "T[2,3]", OLD, scale=2.0)
row("", "ScaledTanh", "T[2,3]", OLD, alpha=1.0, beta=1.0)
row("", "SequenceAt", "seq(T) i64=0")
row("", "SequenceConstruct", "T[2] T[2]")
row("", "SequenceEmpty", "", dtype="T")
row("", "SequenceErase", "seq(T) i64=0")
row("", "SequenceLength", "seq(T)")
row("", "SimplifiedLayerNormalization", "T[2,4] T[4]", FLOATS)

# ai.onnx.ml ----------------------------------------------------------------------------------------

TREE = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_featureids": [1, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}


def leaves(kind: str) -> dict[str, list]:
    """What the two leaves of TREE say, one for each of two classes or targets."""
    said = {"treeids": [0, 0], "nodeids": [1, 2], "ids": [0, 1], "weights": [1.0, 1.0]}
    return {f"{kind}_{name}": values for name, values in said.items()}


row(ML, "CastMap", "map(i64,T)", cast_to="TO_FLOAT")
row(ML, "CategoryMapper", "T[2]", cats_strings=["a", "b"], cats_int64s=[0, 1])
row(ML, "DictVectorizer", "map(i64,T)", int64_vocabulary=[0, 1])
row(ML, "FeatureVectorizer", "T[2,3] T[2,3]", inputdimensions=[3, 3])
row(ML, "Imputer", "T[2,3]", imputed_value_floats=[0.0], imputed_value_int64s=[0])
row(ML, "LinearClassifier", "T[2,3]", coefficients=[1.0] * 6, intercepts=[0.0] * 2, classlabels_ints=[0, 1])
row(ML, "LinearRegressor", "T[2,3]", coefficients=[1.0] * 3)
row(ML, "Normalizer", "T[2,3]", norm="L2")
row(ML, "OneHotEncoder", "T[2]", "f64 f32 i64 i32", cats_int64s=[0, 1])
row(ML, "OneHotEncoder", "T[2]", "string", cats_strings=["a", "b"])
row(
    *(ML, "SVMClassifier", "T[2,3]"),
    **{"kernel_type": "LINEAR", "vectors_per_class": [1, 1], "support_vectors": [0.5, 1.0] * 3},
    **{"coefficients": [1.0, -1.0], "rho": [0.0], "classlabels_ints": [0, 1]},
)
row(
    *(ML, "SVMRegressor", "T[2,3]"),
    **{"kernel_type": "LINEAR", "n_supports": 1, "support_vectors": [0.5] * 3, "coefficients": [1.0]},
    rho=[0.0],
)
row(ML, "Scaler", "T[2,3]", offset=[0.0], scale=[2.0])
row(ML, "TreeEnsembleClassifier", "T[2,3]", classlabels_int64s=[0, 1], **TREE, **leaves("class"))
row(ML, "TreeEnsembleRegressor", "T[2,3]", n_targets=2, **TREE, **leaves("target"))
row(ML, "ZipMap", "T[2,2]", classlabels_int64s=[0, 1])

# com.microsoft: the dtypes are those of onnxruntime's schemas --------------------------------------

row(MS, "Attention", "T[1,2,4] T[4,12] T[12]", NORMAL, num_heads=2)
row(
    *(MS, "AttnLSTM", "T[2,1,3] T[1,8,5] T[1,8,2] - - - - - T[1,2,4] T[1,2,4] T[1,4] T[1,3,2]", "f64 f32"),
    hidden_size=2,
)
row(MS, "BiasAdd", "T[1,2,4] T[4] T[1,2,4]", "f32 f16")
row(MS, "BiasDropout", "T[2,4] T[4] T[2,4]", FLOATS)
row(MS, "BiasGelu", "T[2,4] T[4]", FLOATS)
row(MS, "BiasSoftmax", "T[2,3] T[2,3]", "f64 f32 f16", axis=1, is_inner_broadcast=1)
row(MS, "BiasSplitGelu", "T[1,2,4] T[4]", "f32 f16")
row(MS, "BifurcationDetector", "T[4] T[3] T=0 T[5]", "i64")
row(MS, "BranchwiseRMSNorm", "T[2,2,4] f32[4]", NORMAL)
row(MS, "CDist", "T[2,3] T[4,3]", "f64 f32")
row(MS, "CausalConvWithState", "T[1,2,4] T[2,1,3] T[2]", NORMAL)
row(MS, "ComplexMul", "T[3,2] T[3,2]", "f64 f32 f16")
row(MS, "ComplexMulConj", "T[3,2] T[3,2]", "f64 f32 f16")
row(MS, "ConvTransposeWithDynamicPads", "T[1,1,4,4] T[1,1,3,3] i64(1,1,1,1)", "f64 f32 f16")
row(MS, "CropAndResize", "T[1,1,4,4] T[2,4] i32(0,0) i32(2,2)", "f64 f32 f16")
row(
    *(MS, "DecoderAttention", "T[2,1,4] T[2,1,4] T[4,4] T[4,8] T[12] - - - bool=0 bool=0 bool=0 bool=0"),
    "f32 f16",
    num_heads=2,
)
row(MS, "DecoderMaskedMultiHeadAttention", "T[1,1,4] T[1,1,4] T[1,1,4]", "f32 f16", num_heads=2)
row(MS, "DequantizeLinear", "T[2,3] f32=1 T=0", "i8 u8 i16 u16 i32 i4 u4")
row(
    *(MS, "DynamicQuantizeLSTM", "f32[2,1,3] T[1,3,8] T[1,2,8] - - - - - f32[1] T[1] f32[1] T[1]", CODES),
    hidden_size=2,
)
row(MS, "DynamicQuantizeMatMul", "f32[2,3] T[3,4] f32[1] T[1]", CODES)
row(MS, "DynamicTimeWarping", "T[3,4]", "f32")
row(MS, "EmbedLayerNormalization", "i32[1,2] i32[1,2] T[4,8] T[4,8] T[4,8] T[8] T[8]", "f32 f16")
row(MS, "EngramGate", "T[1,2,2,4] T[1,2,2,4] T[1,2,4] T[2,4] T[2,4]", NORMAL)
row(MS, "ExpandDims", "T[2,3] i32=0", EVERY)
row(MS, "FastGelu", "T[2,3] T[3]", FLOATS)
row(MS, "FusedConv", "T[1,1,4,4] T[1,1,3,3]", "f64 f32 f16", activation="Relu")
row(MS, "FusedGemm", "T[2,3] T[3,4] T[4]", "f64 f32 f16 i64 i32 u64 u32", activation="Relu")
row(MS, "FusedMatMul", "T[3,2] T[3,4]", FLOATS, transA=1, alpha=0.5)
row(MS, "FusedMatMulActivation", "T[3,2] T[3,4]", FLOATS, transA=1, activation="Relu")
row(MS, "GatedAdd", "T[2,4] T[2,4] T[2,1]", NORMAL)
row(MS, "GatedDeltaNet", "T[3,1,4] T[3,1,4] T[3,2,4] i32(0,3) T[3,2] T[3,2]", NORMAL)
row(MS, "GatedRMSNorm", "T[2,8] T[4] T[2,8]", NORMAL)
row(
    *(MS, "GatedRelativePositionBias", "T[1,2,4] T[4] T[1,2,2,2] T[2,4] T[4] T[1,2,1,1]", "f32 f16"),
    num_heads=2,
)
row(
    *(MS, "GatherBlockQuantized", "T[4,32] i64(0,1) f32[4,2]"),
    *("u8 u4 i4 f4e2m1 f8e4m3 f8e4m3fnuz f8e5m2 f8e5m2fnuz",),
    **{"bits": 8, "block_size": 16, "quantize_axis": 1},
)
row(MS, "GatherND", "T[2,3] i64[1,1]", EVERY)
row(MS, "GatherPacked", "u8[4,18] T(0,1)", "i64 i32", packed_type=2, K=32, output_dtype=1)
row(MS, "Gelu", "T[2,3]", FLOATS)
row(MS, "GemmFastGelu", "T[2,3] T[3,4] T[4]", NORMAL)
row(MS, "GemmaRotaryEmbedding", "f32[1,2,4] T[1,2,2,4] T[1,2,2,4] T[1,2,2,4] T[1,2,2,4]", "f16")
row(MS, "GridSample", "T[1,1,3,3] T[1,2,2,2]", EVERY)
row(MS, "GroupNorm", "T[1,2,2,4] T[4] T[4]", "f32 f16", groups=2, activation=1)
row(
    *(MS, "GroupQueryAttention", "T[1,2,8] T[1,2,4] T[1,2,4] - - i32(1) i32=2", NORMAL),
    **{"num_heads": 2, "kv_num_heads": 1},
)
row(MS, "HyperConnectionPostMix", "T[2,2,4] T[2,4] T[2,2] T[2,2,2]", NORMAL)
row(MS, "HyperConnectionPreMix", "T[2,2,4] T[2,2]", NORMAL)
row(MS, "Inverse", "T[2,2]", "f64 f32 f16")
row(MS, "IsAllFinite", "T[2,3]", FLOATS)
row(
    *(MS, "LinearAttention", "T[1,2,8] T[1,2,8] T[1,2,8] - T[1,2,2] T[1,2,2]", NORMAL),
    **{"q_num_heads": 2, "kv_num_heads": 2},
)
row(MS, "LinearAttentionGate", "T[1,2,4] f32[4] f32[4]", NORMAL)
row(
    *(MS, "LongformerAttention", "T[1,4,4] T[4,12] T[12] T[1,4] T[4,12] T[12] i32[1,4]", "f32 f16"),
    **{"num_heads": 2, "window": 1},
)
row(
    *(MS, "MRotaryEmbedding", "T[1,2,2,4] i64[3,1,2] T[4,2] T[4,2]", NORMAL),
    mrope_section=[1, 1, 0],
)
row(MS, "MatMulBnb4", "T[2,16] u8[32] T[4]", NORMAL, N=4, K=16, block_size=16, quant_type=1)
row(MS, "MatMulFpQ4", "T[2,32] u8[80] i64(32,4)", "f32", blk_quant_type=0)
row(MS, "MatMulInteger16", "T[2,3] T[3,4]", "i16 u16")
row(MS, "MatMulIntegerToFloat", "T[2,3] T[3,4] f32=1 f32=1 T=1 T=1", CODES)
row(MS, "MatMulNBits", "T[2,32] u8[4,2,8] T[8]", NORMAL, N=4, K=32, bits=4, block_size=16)
row(MS, "MaxpoolWithMask", "T[1,1,4,4] i32[1,1,4,4]", "f32", kernel_shape=[2, 2])
row(MS, "MoE", "T[2,4] T[2,2] T[2,8,4] T[2,8] T[2,4,8] T[2,4]", NORMAL, k=1)
row(MS, "MoEGroupRouter", "T[2,4] f32[4]", NORMAL, top_k=2)
row(MS, "MulInteger", "T[2,3] T=1 T[2,3] T=1", CODES)
row(MS, "MultiHeadAttention", "T[1,2,4] T[1,2,4] T[1,2,4]", NORMAL, num_heads=2)
row(MS, "MurmurHash3", "T[2,3]", "f64 f32 i64 i32 u64 u32 string")
row(
    *(MS, "NGramHashMapping", "T[1,4] T[2] T[2]", "i64 i32"),
    **{"max_ngram_size": 2, "n_head_per_ngram": 2, "pad_id": 0},
)
row(MS, "NGramRepeatBlock", "i64[1,4] T[1,8]", "f32", ngram_size=2)
row(MS, "NhwcConv", "T[1,4,4,1] T[1,3,3,1]", "f64 f32 f16")
row(MS, "NhwcFusedConv", "T[1,4,4,1] T[1,3,3,1]", "f32 f16", activation="Relu")
row(MS, "NhwcMaxPool", "T[1,4,4,1]", CODES, kernel_shape=[2, 2])
row(MS, "PackedAttention", "T[3,4] T[4,12] T[12] i32[1,3] i32(0,3)", "f32 f16", num_heads=2)
row(
    *(MS, "PackedMultiHeadAttention", "T[3,4] T[3,4] T[3,4] - i32[1,3] i32(0,3)", "f32 f16"),
    num_heads=2,
)
row(MS, "Pad", "T[2,3] i64(0,1,0,1)", "f64 f32 f16")
row(MS, "QAttention", "T[1,2,4] T[4,12] f32[12] f32=1 f32=1 - T=1 T=1", CODES, num_heads=2)
row(
    *(MS, "QEmbedLayerNormalization"),
    "i32[1,2] i32[1,2] T[4,8] T[4,8] T[4,8] T[8] T[8] - f32=1 f32=1 f32=1 f32=1 f32=1 T=1 T=1 T=1 T=1 T=1",
    CODES,
)
row(MS, "QGemm", "T[2,3] f32=1 T=1 T[3,4] f32=1 T=1 i32[4] f32=1 T=1", CODES)
row(MS, "QLinearAdd", "T[2,3] f32=1 T=1 T[2,3] f32=1 T=1 f32=1 T=1", CODES)
row(MS, "QLinearAveragePool", "T[1,1,4,4] f32=1 T=1 f32=1 T=1", CODES, kernel_shape=[2, 2])
row(MS, "QLinearConcat", "f32=1 T=1 T[2,3] f32=1 T=1 T[2,3] f32=1 T=1", CODES, axis=0)
row(MS, "QLinearConv", "T[1,1,4,4] f32=1 T=1 T[1,1,3,3] f32=1 T=1 f32=1 T=1", CODES)
row(MS, "QLinearGlobalAveragePool", "T[1,1,4,4] f32=1 T=1 f32=1 T=1", CODES)
row(MS, "QLinearLeakyRelu", "T[2,3] f32=1 T=1 f32=1 T=1", CODES, alpha=0.5)
row(MS, "QLinearMul", "T[2,3] f32=1 T=1 T[2,3] f32=1 T=1 f32=1 T=1", CODES)
row(MS, "QLinearReduceMean", "T[2,3] f32=1 T=1 f32=1 T=1", CODES, axes=[1], keepdims=1)
row(MS, "QLinearSigmoid", "T[2,3] f32=1 T=1 f32=1 T=1", CODES)
row(MS, "QLinearSoftmax", "T[2,3] f32=1 T=1 f32=1 T=1", CODES, axis=1, opset=13)
row(MS, "QLinearWhere", "bool[2,3] T[2,3] f32=1 T=1 T[2,3] f32=1 T=1 f32=1 T=1", CODES)
row(MS, "QMoE", "T[2,8] T[2,2] u8[2,8,4] T[2,8] - u8[2,8,4] T[2,8]", NORMAL, k=1)
row(MS, "QuantizeLinear", "f32[2,3] f32=1 T=0", "i8 u8 i16 u16 i4 u4")
row(MS, "QuickGelu", "T[2,3]", FLOATS)
row(MS, "Range", "T[] T=4 T=1", "f64 f32 i64 i32 i16")
row(MS, "ReduceSumInteger", "T[2,3]", CODES, axes=[1], keepdims=1)
row(MS, "RelativePositionBias", "T[8,2] i64(3) i64(3)", "f32 f16", max_distance=16)
row(MS, "RemovePadding", "T[2,2,4] i32[2]", "f32 f16")
row(MS, "RestorePadding", "T[2,4] i32[1,2]", "f32 f16")
row(MS, "RotaryEmbedding", "T[1,2,4] i64[1,2] T[4,2] T[4,2]", NORMAL)
row(MS, "RouterGateUpProj", "T[2,3] T[3,6]", "f16 bf16", router_size=2)
row(MS, "SampleOp", "T[2,3]", "f64 f32 f16 i64 i32 u64 u32")
row(MS, "ScaledSiLU", "T[2,3]", NORMAL, alpha=0.5)
row(MS, "SimplifiedLayerNormalization", "T[2,4] T[4]", FLOATS)
row(MS, "SkipGroupNorm", "T[1,2,2,4] T[4] T[4] T[1,4]", "f32 f16", groups=2, activation=1)
row(MS, "SkipLayerNormalization", "T[1,2,4] T[1,2,4] T[4] T[4]", NORMAL)
row(MS, "SkipSimplifiedLayerNormalization", "T[1,2,4] T[1,2,4] T[4]", NORMAL)
row(
    *(
        MS,
        "SparseAttention",
        "T[1,2,8] T[1,2,8] T[1,2,8] T[1,2,16,4] T[1,2,16,4] i32[1,2] i32[1,1] i32(2) i32(2)",
    ),
    NORMAL,
    **{"num_heads": 2, "kv_num_heads": 2, "sparse_block_size": 16},
)
row(MS, "SwiGLU", "T[2,8]", NORMAL)
row(MS, "Tokenizer", "T[2]", "string", mark=0, mincharnum=1, pad_value="#", separators=[" "])
row(MS, "TorchEmbedding", "T[4,3] i64[2]", f"{FLOATS} i64 i32 i16 i8 u64 u32 u16 u8")
row(MS, "TransposeMatMul", "T[3,2] T[3,4]", FLOATS, transA=1)
row(MS, "Trilu", "T[3,3]", f"{FLOATS} i64 i32 i16 i8 u64 u32 u16 u8 bool")
row(MS, "UnfoldTensor", "T[2,5]", f"{EVERY} bf16", size=3)
row(MS, "Unique", "T[4]", EVERY)
row(MS, "VarlenCausalConvWithState", "T[3,2] T[2,1,2] i32(0,3) - T[1,2,1]", NORMAL)
row(
    *(MS, "VarlenNGramHashMapping", "T[4] T[2] T[2] i32(0,4)", "i64 i32"),
    **{"max_ngram_size": 2, "n_head_per_ngram": 2, "pad_id": 0},
)
row(MS, "WordConvEmbedding", "i32[2,4] T[3,1,2,3] T[3] T[5,3]", "f32")
