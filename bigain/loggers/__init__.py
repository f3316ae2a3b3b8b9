"""Services that show finished runs; each implements `bigain.experiments.logging.Logger`."""
