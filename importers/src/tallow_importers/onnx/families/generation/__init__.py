"""Generation of text: onnxruntime's operators that hold the models which they run in a loop."""
