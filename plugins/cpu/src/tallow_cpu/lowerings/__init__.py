"""Lowerings that beat the common ones on a CPU: register tiles, row kernels, blocked layouts."""

LOWERINGS: dict = {}
