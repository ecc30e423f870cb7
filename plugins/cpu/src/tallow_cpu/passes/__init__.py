"""Graph passes for CPU targets: products of bytes, channels last, attention on views, packed weights."""

from tallow.passes.channels_last import sink_transposes
from tallow_cpu.passes.attention import view_attention
from tallow_cpu.passes.byte_products import multiply_bytes
from tallow_cpu.passes.channels_last import convert_windows
from tallow_cpu.passes.pack import pack_products
from tallow_cpu.passes.projections import merge_projections

PASSES = (multiply_bytes, convert_windows, sink_transposes, merge_projections, view_attention, pack_products)
