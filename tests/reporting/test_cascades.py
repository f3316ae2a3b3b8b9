"""What a cascade buys: the simulation is the task's rule, and costs are added up right."""

from dataclasses import replace

import numpy as np
import pytest

from bigain.reporting.all_trials import Errors
from bigain.reporting.cascades import Measured, cascade, race_after_race, table
from bigain.reporting.race_replay import race
from bigain.tasks.classify import Classify
from tests.reporting.test_race_replay import errors_of


@pytest.fixture
def both() -> tuple[Errors, Errors]:
    """The errors of a compressed model and of the model itself, whose answers often differ."""
    whole, noise = errors_of(), errors_of(seed=1)
    return Errors(whole.trials + noise.trials, whole.labels), whole


@pytest.mark.parametrize("protocol", [Classify(), Classify((10, 20), (2, 1))])
def test_the_last_stage_decides_by_its_own_errors(both, protocol):
    compressed, whole = both
    found = cascade(compressed, whole, protocol)
    first, last = map(len, protocol.stages())
    kept = protocol.keep[0]
    assert set(found.compressed) == {10 * first} and set(found.whole) == {kept * last}
    assert (found.compressed + found.whole == protocol.evaluations(10)).all()
    share = replace(protocol, decide_with="uncompressed").uncompressed_share(10)
    assert found.whole[0] / protocol.evaluations(10) == share
    for i, prediction in enumerate(found.predictions):
        left = np.argsort(compressed.trials[i, :, :first].mean(1))[:kept]
        assert prediction == left[whole.trials[i, left, first:].mean(1).argmin()]


def test_a_race_begins_anew_with_the_classes_that_are_left(both):
    compressed, whole = both
    alone = race(whole, 0.99)
    found = race_after_race(compressed, whole, 0.99, rounds=0)
    assert (found.predictions == alone.predictions).all() and not found.compressed.any()
    assert (found.whole == alone.evaluations).all()
    found = race_after_race(compressed, whole, 0.99, rounds=20)
    alone = race(compressed, 0.99)
    assert (found.predictions == alone.predictions).all() and not found.whole.any()
    found = race_after_race(compressed, whole, 0.99, rounds=2)
    assert (found.compressed == 20).all() and (found.whole > 0).any()


def test_the_table_adds_up_both_costs(both):
    compressed, whole = both
    rows = table({"toy": (Measured("none", whole, 2.0), [Measured("half", compressed, 1.0)])})
    header, _, *lines = rows.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert "GFLOPs per image" in header and len(cells) == 2 + 4
    assert [line[1] for line in cells] == ["none", "none", *["half"] * 4]
    assert cells[0][3:5] == ["125.0", "250.0"] and cells[0][6] == "–"
    assert cells[2][3:5] == ["125.0", "125.0"]
    assert cells[4][2:5] == ["staged, decided uncompressed", "125.0", f"{50 + 75 * 2:.1f}"]
