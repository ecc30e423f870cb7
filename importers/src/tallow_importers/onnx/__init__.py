"""ONNX models as Graphs."""

from tallow_importers.onnx.importer import load, load_model_proto

__all__ = ["load", "load_model_proto"]
