"""Benchmarks: Tallow and its peers, interleaved in one run."""
