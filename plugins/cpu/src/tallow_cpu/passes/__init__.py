"""Graph passes for CPU targets: channels last, attention on views, packed weights."""

from tallow_cpu.passes.attention import view_attention
from tallow_cpu.passes.channels_last import convert_windows, sink_transposes
from tallow_cpu.passes.pack import pack_products

PASSES = (convert_windows, sink_transposes, view_attention, pack_products)
