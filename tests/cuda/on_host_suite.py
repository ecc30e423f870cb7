"""Graphs of the device tests through the whole CUDA backend, with the host for a GPU: `tox -e cuda`."""

from __future__ import annotations

from test_graphs_on_devices import (  # noqa: F401 - tests, run here on this folder's device
    test_convolutions,
    test_products,
    test_reductions,
    test_residual_blocks_keep_their_meaning_under_channels_last,
)
