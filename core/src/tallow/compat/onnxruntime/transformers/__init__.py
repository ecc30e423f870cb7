"""Of onnxruntime.transformers, what programs need to run models."""
