"""Batches that are never too small for their results to be those of larger ones."""


def padded(count: int, smallest: int) -> list[int]:
    """The places of ``count`` samples in a batch of at least ``smallest``, which repeats the last.

    The caller drops what the model makes of the samples past ``count``.
    """
    return [min(i, count - 1) for i in range(max(count, smallest))]
