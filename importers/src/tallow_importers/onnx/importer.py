"""The ONNX importer: files and protos become Graphs, all that is unsupported reported at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from tallow import declared
from tallow.dim import Dim, symbol
from tallow.errors import GraphError, ImportFailed, NotAModel
from tallow.graph import (
    VARIES,
    Graph,
    Location,
    MapType,
    OptionalType,
    SequenceType,
    TensorType,
    Type,
    UnrankedType,
    Value,
)
from tallow.sizes import check_names
from tallow_importers.onnx import families, repairs
from tallow_importers.onnx.context import Context, Diverges, NodeView, RanksDiffer, Unsupported, attributes_of
from tallow_importers.onnx.custom import is_custom, write_custom
from tallow_importers.onnx.declaration import declaration
from tallow_importers.onnx.families.control import as_declared, fork
from tallow_importers.onnx.functions import body_of, type_proto
from tallow_importers.onnx.known import KnownBuilder
from tallow_importers.onnx.problems import Problems, unknown_operator
from tallow_importers.onnx.reading import PLAIN, Reading
from tallow_importers.onnx.registry import REGISTRY
from tallow_importers.onnx.schema import check_node
from tallow_importers.onnx.sorting import in_order
from tallow_importers.onnx.tensors import dtype_of, sparse_to_dense, to_array
from tallow_importers.onnx.weights import read, read_bytes

OLDEST_OPSET = 7
# What handlers run into when a node breaks its operator's schema.
_MALFORMED = (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, RuntimeError)
DEEPEST = 64  # levels of subgraphs and functions
GROWTH, LEAST = 64, 10_000  # nodes, functions written out, for each node of the file; and in any case
assert families


def load(path: str | Path, dims: Mapping[str, int] | None = None, reading: Reading = PLAIN) -> Graph:
    """The Graph of an ONNX file, sizes in `dims` fixed; ImportFailed says what is wrong or not supported."""
    path = Path(path)
    try:
        rest, weights = read(path)
    except OSError as error:
        raise ImportFailed(f"cannot read {path}: {error.strerror}") from None
    return load_model_proto(_parse(rest, path.name), path.parent, path.name, dims, reading, weights)


def load_bytes(data: bytes, dims: Mapping[str, int] | None = None, reading: Reading = PLAIN) -> Graph:
    """As `load`, of an ONNX file's bytes; external data has no folder there and is refused."""
    rest, weights = read_bytes(data)
    return load_model_proto(_parse(rest, "model"), dims=dims, reading=reading, weights=weights)


def _parse(data: bytes, source: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise NotAModel(f"{source} is not an ONNX model, or is truncated or damaged: {error}") from None
    return model


def load_model_proto(
    model: onnx.ModelProto,
    folder: Path | None = None,
    source: str = "model",
    dims: Mapping[str, int] | None = None,
    reading: Reading = PLAIN,
    weights: Mapping[int, np.ndarray] | None = None,
) -> Graph:
    """The Graph of a model in memory; `folder` is where its external data may lie, `weights` the raw data of
    initializers, by their number, that the model itself lacks."""
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise NotAModel(f"{source} holds no graph: it is not an ONNX model, or it is truncated")
    try:
        return _Importer(model, folder, source, dims or {}, reading, weights or {}).graph()
    except (*_MALFORMED, OverflowError, MemoryError) as error:
        raise ImportFailed(f"{source} is damaged or malformed ({type(error).__name__}: {error})") from error


class _Importer:
    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path | None,
        source: str,
        dims: Mapping[str, int],
        reading: Reading,
        weights: Mapping[int, np.ndarray],
    ):
        self.model, self.folder, self.source, self.dims = model, folder, source, dims
        self.weights, self.reading = weights, reading
        self.opsets = self._opsets(model.opset_import)
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.problems = Problems(source)
        self.depth = self.forks = 0
        self.read, self.most = 0, max(LEAST, GROWTH * _count(model))
        self.renamed: dict[str, str] = {}
        self.inputs: tuple[Value, ...] = ()
        self.sizes: set[str] = set()
        self.told: set[str] = set()  # operators that a warning has named

    def _opsets(self, imports) -> dict[str, int]:
        opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in imports}
        if "" not in opsets and imports is self.model.opset_import:
            opsets[""] = repairs.missing_opset(self.model.ir_version)
            if any(n.domain in ("", "ai.onnx") for n in self.model.graph.node):
                repairs.warn(f"{self.source} names no opset of ONNX's own operators: assuming {opsets['']}")
        newest = onnx.defs.onnx_opset_version()
        if "" in opsets and opsets[""] > newest:
            raise ImportFailed(
                f"{self.source} uses opset {opsets['']}: this importer knows {OLDEST_OPSET} to {newest}"
            )
        return opsets

    def graph(self) -> Graph:
        proto = self.model.graph
        builder = KnownBuilder(_identifier(proto.name) or "main")
        scope: dict[str, Value | None] = {"": None}
        context = Context(builder, self, scope, self.folder)
        try:
            self.initializers(context, proto, self.weights)
            self._inputs(context, proto)
            self.inputs = tuple(builder.inputs)
            check_names(self.dims, self.sizes)
            self.reading.check(self.source, [info.name for info in self.model.graph.input])
            self._body(context, proto)
            outputs = self._outputs(context, proto)
        except RanksDiffer as error:
            self.problems.lacks(error)
        except GraphError as error:
            raise ImportFailed(f"{self.source}: {error}") from None
        except RecursionError:
            raise ImportFailed(f"{self.source}: subgraphs are nested too deeply") from None
        if self.problems:
            raise ImportFailed(self.problems.report())
        metadata = {p.key: p.value for p in self.model.metadata_props}
        metadata |= {"producer": f"{self.model.producer_name} {self.model.producer_version}".strip()}
        metadata |= {"opset": ", ".join(f"{d or 'ai.onnx'} {v}" for d, v in self.opsets.items())}
        metadata |= {declared.KEY: declaration(self.model, self.reading.fed).text()}
        return builder.finish(outputs, metadata)

    # Parts of a graph --------------------------------------------------------------------------

    def initializers(
        self, context: Context, proto: onnx.GraphProto, weights: Mapping[int, np.ndarray] | None = None
    ) -> None:
        """A graph's weights as constants, known by their names from here on."""
        reading = self.reading if proto is self.model.graph else PLAIN
        for number, tensor in enumerate(proto.initializer):
            if tensor.name in reading.fed:
                continue
            kind = dtype_of(tensor.data_type, f'tensor "{tensor.name}"')
            array = reading.value(self.source, tensor.name, kind, tensor.dims)
            if array is None:
                array = to_array(tensor, self.folder, (weights or {}).get(number))
            have = context.scope.get(tensor.name)
            if tensor.name in context.names and repairs.same(context.array(have), array):
                repairs.warn(
                    f'{self.source}: the initializer "{tensor.name}" is there twice, the same: one is taken'
                )
                continue
            self._define(context, tensor.name, context.builder.constant(array, tensor.name))
        for sparse in proto.sparse_initializer:
            if sparse.values.name in reading.fed:
                continue
            dense = sparse_to_dense(sparse, self.folder)
            self._define(context, sparse.values.name, context.builder.constant(dense, sparse.values.name))

    def _define(self, context: Context, name: str, value: Value | None) -> None:
        if not name:
            return
        if name in context.names:
            raise ImportFailed(f'{self.source}: the name "{name}" is given to two values')
        context.names.append(name)
        context.scope[name] = value

    def _inputs(self, context: Context, proto: onnx.GraphProto) -> None:
        """Inputs are made; one that is an initializer too has a default, which is constant unless it is to be fed."""
        given = [i for i in proto.input if i.name not in context.scope]
        given = [i for i in given if repairs.has_type(proto, i, self.source)]
        names = [context.builder.unique(info.name) for info in given]
        for info, name in zip(given, names, strict=True):
            value = None
            try:
                value = Value(name, self.type_of(info.type, f'input "{info.name}"', context))
                context.builder.inputs.append(value)
            except ImportFailed as error:
                self.problems.breaks(error)
            self._define(context, info.name, value)

    def type_of(self, proto: onnx.TypeProto, where: str, context: Context) -> Type:
        """The type of an input; a tensor needs a rank."""
        if proto.WhichOneof("value") == "tensor_type":
            tensor = proto.tensor_type
            if not tensor.HasField("shape"):
                raise ImportFailed(f"{self.source}: {where} has no shape: give it at least a rank")
            shape = tuple(self._dim(d, where, context) for d in tensor.shape.dim)
            return TensorType(dtype_of(tensor.elem_type, where), shape)
        return self.element_of(proto, where)

    def element_of(self, proto: onnx.TypeProto, where: str) -> Type:
        """A type inside a sequence, an optional or a map: sizes that are no numbers may vary."""
        match proto.WhichOneof("value"):
            case "tensor_type":
                tensor = proto.tensor_type
                dtype = dtype_of(tensor.elem_type, where)
                if not tensor.HasField("shape"):
                    return UnrankedType(dtype)
                sizes = (d.dim_value if d.HasField("dim_value") else VARIES for d in tensor.shape.dim)
                return TensorType(dtype, tuple(sizes))
            case "sequence_type":
                return SequenceType(self.element_of(proto.sequence_type.elem_type, where))
            case "optional_type":
                return OptionalType(self.element_of(proto.optional_type.elem_type, where))
            case "map_type":
                key = dtype_of(proto.map_type.key_type, where)
                return MapType(key, self.element_of(proto.map_type.value_type, where))
        raise ImportFailed(f"{self.source}: {where} has no type that Tallow knows")

    def _dim(self, dim, where: str, context: Context) -> Dim:
        if dim.WhichOneof("value") == "dim_value":
            if dim.dim_value >= 0:
                return dim.dim_value
            return self._size(str(context.builder.fresh_symbol("d")))
        name = _identifier(dim.dim_param)  # "?" and the like name nothing
        if name and dim.dim_param.lower() not in repairs.ANONYMOUS:
            if not self.reading.ties(dim.dim_param):
                return self._size(str(context.builder.fresh_symbol(name)), dim.dim_param)
            if dim.dim_param not in self.renamed:
                self.renamed[dim.dim_param] = context.builder.size_name(name)
            return self._size(self.renamed[dim.dim_param], dim.dim_param)
        return self._size(str(context.builder.fresh_symbol("d")))

    def _size(self, name: str, original: str = "") -> Dim:
        """The symbol of a size, or the number that the caller fixed it to."""
        self.sizes |= {name, *([original] if original else [])}
        return self.dims.get(original, self.dims.get(name, symbol(name)))

    def _outputs(self, context: Context, proto: onnx.GraphProto) -> dict[str, Value]:
        outputs = {}
        for info in proto.output:
            value = context.scope.get(info.name)
            if value is None:
                if info.name not in context.scope or not self.problems:
                    self.problems.breaks(f'output "{info.name}" is made by no node')
                continue
            repairs.check_declared(self.source, info, value)
            outputs[info.name] = value
        return outputs

    # Nodes -------------------------------------------------------------------------------------

    def _body(self, context: Context, proto: onnx.GraphProto) -> None:
        """The nodes of a graph of its own; where its ranks depend on a condition, those after it twice."""
        wanted = [o.name for o in proto.output]
        try:
            self._nodes(context, proto.node, self.opsets, wanted)
        except Diverges as split:
            values = fork(context, split.followed(partial(as_declared, proto)))
            context.scope |= dict(zip(wanted, values, strict=True))

    def _nodes(
        self,
        context: Context,
        nodes: Sequence[onnx.NodeProto],
        opsets: dict[str, int],
        wanted: Sequence[str],
    ) -> None:
        """Writes nodes; `wanted` are the results that the caller takes out of the scope afterwards."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise ImportFailed(f"{self.source}: more than {DEEPEST} levels of subgraphs and functions")
        ordered = in_order(nodes, set(context.scope), self.source)
        try:
            for position, node in enumerate(ordered):
                try:
                    self._node(context, node, opsets)
                except Diverges as split:
                    rest = (node, ordered[position + 1 :], opsets, wanted)
                    raise split.followed(partial(self._continued, context, *rest)) from None
        finally:
            self.depth -= 1

    def _continued(self, context: Context, node, rest, opsets, wanted, arm, builder) -> list[Value | None]:
        """The wanted results when `arm` writes those of a node and then the rest follows."""
        inside = context.inside(builder)
        try:
            inside.scope |= dict(zip(node.output, arm(builder), strict=False))
        except Diverges as split:
            raise split.followed(partial(self._continued, context, node, rest, opsets, wanted)) from None
        self._nodes(inside, rest, opsets, wanted)
        return [inside.scope.get(name) for name in wanted]

    def _node(self, context: Context, node: onnx.NodeProto, opsets: dict[str, int]) -> None:
        self.read += 1
        if self.read > self.most:
            raise ImportFailed(f"{self.source}: its functions written out are more than {self.most} nodes")
        where = Location(node.name or (node.output[0] if node.output else ""), node.op_type, self.source)
        context.builder.location = where
        missing = [n for n in node.input if n and n not in context.scope]
        if missing:
            self.problems.breaks(f"{where} reads {', '.join(missing)}, which nothing makes")
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = opsets.get(domain, self.opsets.get(domain, 1))
        opset = opset if domain else repairs.opset_of(node, opset, where, self.told)
        poisoned = any(n and context.scope.get(n) is None for n in node.input)
        results: Sequence[Value | None] = [None] * len(node.output)
        try:
            if poisoned:
                self._consider(node, domain, opset)
            else:
                results = self._apply(context, node, domain, opset)
        except Unsupported as error:
            self.problems.lacks(f"{where}: {error}")
        except GraphError as error:
            self.problems.breaks(error, where)
        except _MALFORMED as error:
            given = f"{len(node.input)} operands and attributes {', '.join(a.name for a in node.attribute) or 'none'}"
            self.problems.breaks(f"{where} is malformed: it has {given} ({type(error).__name__}: {error})")
        for name, value in zip(node.output, [*results, *[None] * len(node.output)], strict=False):
            self._define(context, name, value)

    def _consider(self, node: onnx.NodeProto, domain: str, opset: int) -> None:
        """Unsupported for what can be told of a node whose operands are not known."""
        if (domain, node.op_type, node.overload) in self.functions or is_custom(f"{domain}.{node.op_type}"):
            return
        if REGISTRY.find(domain, node.op_type, opset) is None:
            if body_of(self, node, domain, opset, None) is None:
                raise Unsupported(unknown_operator(domain, node.op_type, opset))
        check_node(node, domain, opset)

    def _apply(
        self, context: Context, node: onnx.NodeProto, domain: str, opset: int
    ) -> Sequence[Value | None]:
        inputs, written = [context.scope[n] for n in node.input], len(context.builder.nodes)
        try:
            return self._write(context, node, domain, opset, inputs)
        except GraphError:
            del context.builder.nodes[written:]
            has_graphs = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
            wide = None if has_graphs else repairs.one_integer_width(context, inputs)
            if wide is None:
                raise
        return self._write(context, node, domain, opset, wide)

    def _write(self, context: Context, node, domain: str, opset: int, inputs) -> Sequence[Value | None]:
        if is_custom(f"{domain}.{node.op_type}"):
            return write_custom(context, NodeView(node, inputs, attributes_of(node), opset))
        function = self.functions.get((domain, node.op_type, node.overload))
        handler = None if function is not None else REGISTRY.find(domain, node.op_type, opset)
        refused = None
        if function is None:
            check_node(node, domain, opset)
        if handler is not None:
            written = len(context.builder.nodes)
            try:
                result = handler(context, NodeView(node, inputs, attributes_of(node), opset))
                return [result] if isinstance(result, Value) else list(result)
            except Unsupported as error:  # the operator's own definition may still do
                del context.builder.nodes[written:]
                refused = error
        types = [None if v is None else type_proto(v.type) for v in inputs]
        found = (function, None) if function is not None else body_of(self, node, domain, opset, types)
        if found is None:
            raise refused or Unsupported(unknown_operator(domain, node.op_type, opset))
        return self._call(context, node, found[0], inputs)

    def _call(
        self, context: Context, node: onnx.NodeProto, function: onnx.FunctionProto, inputs
    ) -> list[Value | None]:
        """A function's body written in place of its call."""
        scope: dict[str, Value | None] = {"": None}
        for position, name in enumerate(function.input):
            scope[name] = inputs[position] if position < len(inputs) else None
        absent = {n for n in function.input if scope[n] is None}
        given = {a.name: a for a in node.attribute}
        defaults = {a.name: a for a in function.attribute_proto}
        nodes = []
        for inner in function.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(inner)
            _resolve_references(copy, {**defaults, **given})
            for i, name in enumerate(copy.input):
                if name in absent:
                    copy.input[i] = ""
            nodes.append(copy)
        inside = Context(context.builder, self, scope, self.folder)
        location = context.builder.location
        self._nodes(inside, nodes, self._opsets(function.opset_import), function.output)
        context.builder.location = location
        return [scope.get(name) for name in function.output]

    # Subgraphs ---------------------------------------------------------------------------------

    def region(self, context: Context, proto: onnx.GraphProto, inputs: Sequence[tuple[str, Type]]) -> Graph:
        """A subgraph with its own inputs; it sees every value of the enclosing graphs."""
        builder = context.builder.region(_identifier(proto.name) or "region")
        inside = Context(builder, self, dict(context.scope), self.folder)
        for name, type_ in inputs:
            value = Value(builder.unique(name), type_)
            builder.inputs.append(value)
            inside.scope[name] = value
        self.initializers(inside, proto)
        self._body(inside, proto)
        values = [inside.scope.get(o.name) for o in proto.output]
        if any(v is None for v in values):
            raise Unsupported("a subgraph with unsupported nodes")
        return builder.finish(values)

    def inline(
        self, context: Context, proto: onnx.GraphProto, given: Mapping[str, Value]
    ) -> tuple[Value, ...]:
        """A subgraph written in place; values for its inputs by name. Its names are its own."""
        inside = Context(context.builder, self, {**context.scope, **given}, self.folder)
        location = context.builder.location
        self.initializers(inside, proto)
        self._nodes(inside, proto.node, self.opsets, [o.name for o in proto.output])
        context.builder.location = location
        return tuple(inside.scope.get(o.name) for o in proto.output)


def _count(model: onnx.ModelProto) -> int:
    """Nodes of a model's graph, of its subgraphs and of its functions, whose subgraphs are not counted."""
    count, graphs = sum(len(f.node) for f in model.functions), [model.graph]
    while graphs:
        nodes = graphs.pop().node
        count += len(nodes)
        graphs += [a.g for node in nodes for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return count


def _resolve_references(node: onnx.NodeProto, values: dict[str, onnx.AttributeProto]) -> None:
    """Attributes that refer to the function's own, replaced by the call's values or dropped."""
    kept = []
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name in values:
                copy = onnx.AttributeProto()
                copy.CopyFrom(values[attribute.ref_attr_name])
                copy.name = attribute.name
                kept.append(copy)
            continue
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                _resolve_references(inner, values)
        kept.append(attribute)
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend(copies)


def _identifier(name: str) -> str:
    """A name as an identifier that size expressions can be written with."""
    cleaned = re.sub(r"\W+", "_", name).strip("_")
    return f"_{cleaned}" if cleaned[:1].isdigit() else cleaned
