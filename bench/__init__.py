"""Benchmarks: ``micro`` for kernels, ``system`` for a server and its client, ``peers`` for other servers."""
