"""Benchmarks: this code timed against its peers and against itself."""
