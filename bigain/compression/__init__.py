"""Compressing a diffusers model: hooks that apply a compressor's plans inside it."""
