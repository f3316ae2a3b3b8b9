"""The layout of a trace's rows."""

import numpy as np
import pytest

from bigain.errors import BiGainError
from bigain.tasks.trace_rows import assignment, block_title, image, spectra, spectra_at, time_of


def test_tokens_of_each_block_and_timestep(traced):
    row = traced(slots=list(range(132)), roles=[n % 3 for n in range(132)]).iloc[0]
    # 24 + 24 + 6 tokens at each timestep
    for timestep, block, start, sides in [
        (None, 0, 0, (4, 6)),
        (100, 1, 24, (4, 6)),
        (100, 2, 48, (2, 3)),
        (500, 0, 54, (4, 6)),
        (500, 2, 102, (2, 3)),
    ]:
        slots, roles = assignment("ToMe", row, timestep, block)
        assert slots.shape == roles.shape == sides
        assert slots.flatten().tolist() == list(range(start, start + slots.size))
        assert (roles == slots % 3).all()


def test_spectra_of_each_field(traced):
    fields = ["keys_values", "queries"]
    frame = traced(2, fields=fields, after=np.arange(120.0), before=np.arange(60.0))
    before, after, product = spectra(frame)
    assert before.shape == after.shape == product.shape == (2, 2, 3, 2, 10)
    # (t, block, field, band) = (1, 2, 1, 9) is the last, and before has no field
    assert after[0, 1, 2, 1, 9] == 119 and after[1, 0, 1, 0, 3] == 23
    assert (before[:, :, :, 0] == before[:, :, :, 1]).all() and before[0, 1, 2, 0, 9] == 59
    there = spectra_at("ToMe", frame, 500)
    assert [values.shape for values in there] == [(2, 3, 2, 10)] * 3
    assert np.array_equal(there[1], after[:, 1])


def test_the_image(traced):
    row = traced(image=list(range(96)), image_shape=[4, 8, 3]).iloc[0]
    found = image(row)
    assert found.dtype == np.uint8 and found.shape == (4, 8, 3)
    assert found[1, 0].tolist() == [24, 25, 26]


def test_titles(traced):
    assert block_title(traced().iloc[0], 1) == "block 4"
    assert block_title(traced(blocks=[1, 1, 2]).iloc[0], 1) == "compressed block 2"
    assert time_of(traced().iloc[0], None) == 100 and time_of(traced().iloc[0], 7) == 7


def test_what_was_not_traced_is_named(traced):
    row = traced().iloc[0]
    message = r"ToMe was traced at t = 100, 500, not at t = 7; trace it with task.timesteps=\[7\]"
    with pytest.raises(BiGainError, match=message):
        assignment("ToMe", row, 7, 0)
    with pytest.raises(BiGainError, match="not at t = 7"):
        spectra_at("ToMe", traced(), 7)
    for block in (3, -1):
        with pytest.raises(BiGainError, match=f"traced in 3 blocks, so there is no block {block}"):
            assignment("ToMe", row, None, block)
