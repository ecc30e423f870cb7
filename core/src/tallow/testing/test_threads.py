"""Threads: results are bitwise those of one thread, however many run and whoever calls."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import tallow


def bits(results: dict) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in results.items()}


def test_any_number_of_threads_gives_the_same_bits(model, device):
    graph, inputs = model.graph(), [model.inputs(sizes) for sizes in model.sizes]
    alone = [bits(tallow.compile(graph, device, threads=1).run(i)) for i in inputs]
    for threads in (2, 3, 8):
        run = tallow.compile(graph, device, threads=threads)
        assert [bits(run.run(i)) for i in inputs] == alone, f"{threads} threads give other bits than one"


def test_callers_at_once_get_what_each_would_get_alone(model, device):
    run = tallow.compile(model.graph(), device)
    inputs = [model.inputs(sizes, seed) for sizes in model.sizes for seed in range(2)]
    alone = [bits(run.run(i)) for i in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert [bits(r) for r in pool.map(run.run, inputs)] == alone
