"""The safetensors importer: a folder's config.json says which architecture its weights are for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tallow.errors import ImportFailed
from tallow.graph import Graph
from tallow.passes.bind import bind_dims
from tallow_importers.safetensors import bert
from tallow_importers.safetensors.weights import Weights

ARCHITECTURES = {"bert": bert.build}


def load(path: str | Path, dims: Mapping[str, int] | None = None) -> Graph:
    """The Graph of a Hugging Face folder, or of a `.safetensors` file with its config.json beside it."""
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    config_path = folder / "config.json"
    try:
        config = json.loads(config_path.read_text())
        kind = config["model_type"]
    except OSError:
        raise ImportFailed(f"{folder} has no config.json, which says what the weights are for") from None
    except (ValueError, KeyError, TypeError):
        raise ImportFailed(
            f"{config_path} is no model configuration: expected JSON with a model_type"
        ) from None
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ImportFailed(
            f"model type {kind!r} is not supported: expected one of {', '.join(ARCHITECTURES)}"
        )
    config["normalize"] = _normalizes(folder)
    try:
        graph = ARCHITECTURES[kind](Weights(path), config)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ImportFailed(f"{config_path}: {type(error).__name__}: {error}") from error
    return bind_dims(graph, dims) if dims else graph


def _normalizes(folder: Path) -> bool:
    """Whether a sentence-transformers folder ends with a normalisation to length 1."""
    modules = folder / "modules.json"
    return modules.is_file() and "Normalize" in modules.read_text()
