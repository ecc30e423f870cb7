"""Parts of onnxruntime's interface that Tallow has nothing for: they are there, and refuse in words."""

from __future__ import annotations

from tallow.compat.onnxruntime.errors import NotImplemented, error


class _Refusing(type):
    """Classes of which nothing can be made: calls of the class and of its functions raise NotImplemented."""

    def __call__(cls, *args, **kwargs):
        raise error(NotImplemented, f"{cls.__name__}: {cls.__doc__}")

    def __getattr__(cls, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        return cls


class SparseTensor(metaclass=_Refusing):
    """sparse tensors are not supported; give dense arrays."""


class LoraAdapter(metaclass=_Refusing):
    """adapters are not supported; merge them into the model."""


class AdapterFormat(metaclass=_Refusing):
    """adapters are not supported; merge them into the model."""


class ModelCompiler(metaclass=_Refusing):
    """models with compiled contexts inside are not written; use tallow.compile(model).save(path)."""


def register_execution_provider_library(name: str, path: str) -> None:
    raise error(NotImplemented, f"{path}: devices come from Tallow's plugins: pip install tallow-NAME")


def unregister_execution_provider_library(name: str) -> None:
    raise error(NotImplemented, f"{name}: devices come from Tallow's plugins")
