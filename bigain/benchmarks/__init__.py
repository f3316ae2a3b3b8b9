"""Timing this code against its peers and against itself."""
