"""Tools for every layer: files, images, keyed random numbers and devices."""
