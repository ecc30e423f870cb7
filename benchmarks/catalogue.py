"""The models that are measured: a table of names, where each is built, and the inputs each takes."""

from __future__ import annotations

import difflib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from benchmarks import models_light, models_torch

RECIPES = {"light": models_light.write, "torch": models_torch.write}


class Unbuildable(Exception):
    """A model cannot be built or used here; says what to do."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model to measure.

    recipe: who builds it ("light", "torch"), or "" when `path` is a file of the user's.
    dims: values for the sizes that the file leaves open.
    integers: for inputs of integers, the least value and the one past the greatest; else 0 and 2.
    """

    name: str
    title: str
    recipe: str = ""
    dims: Mapping[str, int] = field(default_factory=dict)
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    path: Path | None = None


_TOKENS = {"ids": (0, 30000), "mask": (1, 2)}
_ROWS = (
    Model("resnet50", "ResNet-50", "light"),
    Model("mobilenetv2", "MobileNetV2", "torch"),
    Model("squeezenet", "SqueezeNet", "light"),
    Model("vgg19", "VGG-19", "light"),
    Model("densenet121", "DenseNet-121", "light"),
    Model("inception_v1", "Inception v1", "light"),
    Model("inception_v2", "Inception v2", "light"),
    Model("shufflenet", "ShuffleNet", "light"),
    Model("bvlc_alexnet", "AlexNet", "light"),
    Model("zfnet512", "ZFNet-512", "light"),
    Model("convnext_tiny", "ConvNeXt-tiny", "torch"),
    Model("vit_b16", "ViT-B/16", "torch"),
    Model("bert_base", "BERT-base, 1x128", "torch", integers=_TOKENS),
    Model("minilm", "MiniLM-L6, dynamic, 1x128", "torch", {"batch": 1, "sequence": 128}, _TOKENS),
    Model("gpt2", "GPT-2 small, 1x64", "torch", integers={"ids": (0, 50000)}),
    Model("whisper_tiny_encoder", "Whisper-tiny encoder, 30 s", "torch"),
    Model("bilstm", "BiLSTM 2x256, 100 steps", "torch"),
    Model("mlp", "MLP 6x64", "torch"),
)
MODELS = {model.name: model for model in _ROWS}


def find(word: str) -> Model:
    """The model of a name, or of FILE.onnx[,NAME=SIZE]...; Unbuildable lists what is known."""
    head, *sizes = word.split(",")
    if head in MODELS and not sizes:
        return MODELS[head]
    if not head.endswith(".onnx"):
        near = difflib.get_close_matches(head, MODELS, 1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise Unbuildable(
            f"unknown model {word!r}{hint} Expected FILE.onnx[,NAME=SIZE]... or one of {', '.join(MODELS)}"
        )
    path = Path(head)
    if not path.is_file():
        raise Unbuildable(f"model file {head} does not exist")
    try:
        dims = {name: int(size) for name, size in (pair.split("=") for pair in sizes)}
    except ValueError:
        raise Unbuildable(f"{word!r}: expected FILE.onnx,NAME=SIZE,... with whole numbers") from None
    return Model(path.stem, path.stem, dims=dims, path=path.resolve())


def default_folder() -> Path:
    """Where built models are kept when no folder is given."""
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("tallow")) / "benchmarks"


def build(model: Model, folder: Path, force: bool = False) -> Path:
    """The model's file, built into `folder` unless it is there; Unbuildable says what is missing."""
    if model.path is not None:
        return model.path
    target = folder / f"{model.name}.onnx"
    if target.is_file() and not force:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as drafts:
        draft = Path(drafts) / target.name
        try:
            RECIPES[model.recipe](model.name, draft)
        except ImportError as error:
            raise Unbuildable(
                f"{model.name} needs {error.name} to be built: pip install {models_torch.PACKAGES}, "
                "or give the folder of models built elsewhere with --models"
            ) from None
        os.replace(draft, target)
    return target


@dataclass(frozen=True, slots=True)
class Signature:
    """Names of a model's inputs and outputs, and arrays to feed it."""

    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str]


def signature(model: Model, path: Path) -> Signature:
    """Seeded inputs for a model's file; Unbuildable names the size or dtype that is not known."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(0)
    inputs = {i.name: _noise(model, i, rng) for i in graph.input if i.name not in weights}
    return Signature(inputs, [output.name for output in graph.output])


def _noise(model: Model, port: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
    shape = _shape(model, port.name, port.type.tensor_type.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind not in "iub":
        raise Unbuildable(f'{model.name}: no noise of dtype {dtype} for input "{port.name}"')
    low, high = model.integers.get(port.name, (0, 2))
    return rng.integers(low, high, shape).astype(dtype)


def _shape(model: Model, name: str, dims: Iterable[onnx.TensorShapeProto.Dimension]) -> list[int]:
    open_sizes = [d.dim_param or "?" for d in dims if not d.HasField("dim_value")]
    unknown = [size for size in open_sizes if size not in model.dims]
    if unknown:
        raise Unbuildable(
            f'{model.name}: input "{name}" has the open size {unknown[0]}: give it as FILE.onnx,{unknown[0]}=1'
        )
    return [d.dim_value if d.HasField("dim_value") else model.dims[d.dim_param] for d in dims]
