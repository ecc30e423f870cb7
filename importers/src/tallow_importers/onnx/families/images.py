"""Image files in ONNX."""

from __future__ import annotations

from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


@onnx_op("ImageDecoder")
def image_decoder(context: Context, node: NodeView) -> Value:
    return context.builder.image_decode(
        node.input(0),
        format=node.attribute("pixel_format", "RGB"),
        defines=(context.fresh_name(), context.fresh_name()),
    )
