"""What a run does with a model and a data set."""
