"""Lowering: a fused group of graph nodes becomes one or more kernels."""
