"""FLOPs, time and memory."""
