"""Submodules that programs import by onnxruntime's names for them."""
