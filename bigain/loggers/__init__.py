"""Services that display finished runs; each implements `bigain.experiments.logging.Logger`."""
