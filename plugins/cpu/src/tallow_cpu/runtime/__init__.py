"""Running compiled code: loading it, the thread pool, the walk over steps. Needs no compiler."""
