"""ONNX models as Graphs; `importer.load` is the way in."""
