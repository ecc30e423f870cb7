"""Benchmarks: Tallow and its peers on the same models, interleaved in one run."""
