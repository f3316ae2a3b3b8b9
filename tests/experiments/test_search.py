"""The search over a grid: seeded, within bounds, and better than chance."""

import random
from itertools import product

import pytest

from bigain.experiments.search import PATIENCE, STARTUP, Point, search

AXES = [(6, True), (3, False), (3, False), (2, False)]
# a budget leaves out the weakest settings
USABLE = {
    point: str(point)
    for point in product(*(range(size) for size, _ in AXES))
    if point[0] + 2 * point[3] >= 2
}


def loss(point: Point) -> float:
    return (point[0] - 2) ** 2 + (0, 2, 3)[point[1]] + (1, 0, 4)[point[2]] + point[3]


def found(points: int, seed: int = 0, usable: dict[Point, str] = USABLE) -> list[Point]:
    """The points that are evaluated, in order."""
    seen: list[Point] = []

    def evaluated(point: Point) -> float:
        seen.append(point)
        return loss(point)

    search(AXES, usable, evaluated, points, seed)
    return seen


def test_it_evaluates_as_many_distinct_usable_points_as_asked():
    seen = found(30)
    assert len(seen) == len(set(seen)) == 30 and set(seen) <= set(USABLE)


def test_the_same_search_asks_for_the_same_points_and_a_longer_one_begins_with_them():
    assert found(25) == found(25) and found(25)[:15] == found(15)
    assert found(25) != found(25, seed=1)
    assert len(found(12, seed=-1)) == 12  # jobs take any whole number, NumPy takes 32 bits


def test_all_points_are_evaluated_if_there_are_no_more_than_asked():
    few = dict(list(USABLE.items())[:5])
    assert found(5, usable=few) == found(9, usable=few) == list(few)


def test_points_of_the_same_result_count_as_one():
    usable = {point: str(point[:3]) for point in USABLE}  # the last axis changes nothing
    seen = found(STARTUP + 10, usable=usable)
    assert len({point[:3] for point in seen}) == len(seen) == STARTUP + 10


def test_a_region_that_is_never_suggested_is_drawn(monkeypatch):
    """Every point is reached in the end, however bad its losses."""
    monkeypatch.setattr("bigain.experiments.search.PATIENCE", 3)
    assert PATIENCE > 3
    assert len(set(found(len(USABLE) - 1))) == len(USABLE) - 1


def test_it_is_better_than_chance():
    points, seeds = 20, range(8)
    ours = [min(map(loss, found(points, seed))) for seed in seeds]
    drawn = [random.Random(seed).sample(list(USABLE), points) for seed in seeds]
    assert sum(ours) < sum(min(map(loss, points)) for points in drawn)


@pytest.mark.parametrize("points", [STARTUP, STARTUP + 1])
def test_optuna_says_nothing(points, capfd):
    found(points)
    out, err = capfd.readouterr()
    assert out == err == ""
