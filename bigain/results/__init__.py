"""From finished images to tables and figures: the store and its readers."""
