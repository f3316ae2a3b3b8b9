"""Training of the embedded reference models."""
