"""What a session tells of its model: NodeArg for each input and output, and ModelMetadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tallow import declared
from tallow.compat.onnxruntime.kinds import type_word
from tallow.declared import Declared, Sizes
from tallow.dim import symbol
from tallow.dtype import DTYPES
from tallow.executable import Executable
from tallow.graph import OptionalType, TensorType, Type
from tallow.schedule.program import Program

UNVERSIONED = (1 << 63) - 1


@dataclass(frozen=True, slots=True, eq=False)
class NodeArg:
    """A named input or output. `shape`: numbers, names, and None for a size without one; [] where there is
    no tensor."""

    name: str
    type: str
    shape: list[int | str | None]

    def __str__(self) -> str:
        return f"NodeArg(name='{self.name}', type='{self.type}', shape={self.shape})"


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What the model's file says of itself."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0  # the largest number of 64 bits where the file has none
    custom_metadata_map: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interface:
    """All that a session tells of its model. Types are Tallow's own, by name; `required` are the inputs
    that may not be missing, `scalars` those of no axes."""

    inputs: tuple[NodeArg, ...]
    outputs: tuple[NodeArg, ...]
    defaults: tuple[NodeArg, ...]
    metadata: ModelMetadata
    input_types: dict[str, Type]
    default_types: dict[str, Type]
    output_types: Mapping[str, Type]
    required: frozenset[str]
    scalars: frozenset[str]


def describe(executable: Executable) -> Interface:
    """The interface of a compiled model, in the words of its file where there are any."""
    program, said = executable.compiled.program, declared.read(executable.compiled.metadata)
    inputs = _types(program, program.input_names, program.inputs)
    outputs = _types(program, program.output_names, program.outputs)
    original = _original_names(inputs, said)
    return Interface(
        tuple(_argument(name, type_, said, {}) for name, type_ in inputs.items()),
        tuple(_argument(name, type_, said, original) for name, type_ in outputs.items()),
        tuple(
            NodeArg(name, type_word(DTYPES[dtype]), list(sizes))
            for name, (dtype, sizes) in said.defaults.items()
        ),
        ModelMetadata(
            said.producer,
            said.graph,
            said.domain,
            said.description,
            said.graph_description,
            UNVERSIONED if said.version is None else said.version,
            dict(said.properties),
        ),
        inputs,
        {name: _default_type(dtype, sizes) for name, (dtype, sizes) in said.defaults.items()},
        outputs,
        frozenset(name for name, type_ in inputs.items() if not isinstance(type_, OptionalType)),
        frozenset(name for name, type_ in inputs.items() if getattr(type_, "shape", None) == ()),
    )


def _types(program: Program, names, slots) -> dict[str, Type]:
    return {name: program.slots[slot].type for name, slot in zip(names, slots, strict=True)}


def _default_type(dtype: str, sizes: Sizes) -> TensorType:
    """The type of an input that may be left out."""
    shape = (size if isinstance(size, int) else symbol(size or f"d{axis}") for axis, size in enumerate(sizes))
    return TensorType(DTYPES[dtype], tuple(shape))


def _held(of: Type) -> Type:
    return of.element if isinstance(of, OptionalType) else of


def _original_names(inputs: Mapping[str, Type], said: Declared) -> dict[str, str]:
    """The file's name of each size that an input shows, by Tallow's."""
    found: dict[str, str] = {}
    for name, type_ in inputs.items():
        sizes, shape = said.sizes.get(name), getattr(_held(type_), "shape", ())
        if sizes is not None and len(sizes) == len(shape):
            found |= {str(d): s for d, s in zip(shape, sizes, strict=True) if isinstance(s, str)}
    return found


def _argument(name: str, type_: Type, said: Declared, original: Mapping[str, str]) -> NodeArg:
    """An input or output: sizes that are known as numbers, else as the file names them, else as `original`
    does."""
    held = _held(type_)
    if not isinstance(held, TensorType):
        return NodeArg(name, type_word(type_), [])
    sizes = said.sizes.get(name, ())
    if len(sizes) != held.rank:
        sizes = (None,) * held.rank
    shape = [
        dim if isinstance(dim, int) else size if isinstance(size, str) else original.get(str(dim))
        for dim, size in zip(held.shape, sizes, strict=True)
    ]
    return NodeArg(name, type_word(type_), shape)


def sizes_by_name(inputs, said: Declared, names: Mapping[str, int], meanings: Mapping[str, int]):
    """`dims` for tallow.compile: the sizes of `inputs` (ports) that the file gives these names or meanings."""
    found: dict[str, int] = {}
    for port in inputs:
        sizes = said.sizes.get(port.name, ())
        words = said.meanings.get(port.name, ("",) * len(sizes))
        for dim, size, word in zip(port.shape, sizes, words, strict=False):
            wanted = names.get(size) if isinstance(size, str) else None
            wanted = meanings.get(word) if wanted is None and word else wanted
            if wanted is not None and isinstance(dim, str):
                found[dim] = wanted
    return found
