"""One printer of kernels as C, and a table of its dialects."""
