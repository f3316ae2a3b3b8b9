"""Training of the reference models that ship with the code."""
