"""Operators of com.microsoft, the domain of onnxruntime: exporters, optimisers and quantisers write them."""
