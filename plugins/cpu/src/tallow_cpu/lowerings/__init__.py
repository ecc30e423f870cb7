"""Lowerings that beat the common ones on a CPU: register tiles, windows of channels, row kernels."""

from tallow_cpu.lowerings.attention import decline_plain, lower_attention
from tallow_cpu.lowerings.contraction import lower_conv, lower_packed
from tallow_cpu.lowerings.grouped import lower_grouped
from tallow_cpu.lowerings.narrow import lower_elements
from tallow_cpu.lowerings.rows import lower_layer_norm
from tallow_cpu.lowerings.single_row import lower_product
from tallow_cpu.lowerings.softmax import lower_softmax
from tallow_cpu.lowerings.window import lower_depthwise, lower_pool
from tallow_cpu.lowerings.winograd import lower_winograd

LOWERINGS = {
    "pointwise": lower_elements,
    "attention": decline_plain,
    "cpu.attention": lower_attention,
    "matmul": lower_product,
    "cpu.matmul": lower_packed,
    "cpu.conv": lower_conv,
    "cpu.matmul_bytes": lower_packed,
    "cpu.conv_bytes": lower_conv,
    "cpu.winograd": lower_winograd,
    "cpu.depthwise": lower_depthwise,
    "cpu.depthwise_bytes": lower_depthwise,
    "cpu.grouped": lower_grouped,
    "cpu.pool": lower_pool,
    "softmax": lower_softmax,
    "log_softmax": lower_softmax,
    "layer_norm": lower_layer_norm,
    "rms_norm": lower_layer_norm,
}
