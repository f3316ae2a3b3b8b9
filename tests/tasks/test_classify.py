"""The protocol of classification: its grid, its costs, and what it refuses."""

import pytest

from bigain.errors import BiGainError
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.tasks.classify import Classify


def test_grid_and_stages():
    protocol = Classify()
    assert protocol.timesteps(1000) == list(range(25, 1000, 50))
    grid = protocol.timesteps(1000)
    first, second = protocol.stages()
    assert [grid[p] for p in first] == [125, 325, 525, 725, 925]
    assert sorted(first + second) == list(range(20))


@pytest.mark.parametrize(
    ("classes", "evaluations"), [(37, 260), (80, 475), (100, 575), (1000, 5075)]
)
def test_evaluations_of_the_paper(classes, evaluations):
    assert Classify().evaluations(classes) == evaluations


def test_a_race_takes_no_more_than_all_trials():
    assert Classify(strategy="race").evaluations(10) == 200


def test_the_flops_of_a_cascade_are_a_mean(overrides, configure):
    def job(*chosen):
        kept = [o for o in overrides if not o.startswith(("task.samples", "task.keep"))]
        return Job(settings_of(configure([*kept, "blocks=all", *chosen])))

    whole, short = job().flops.total, job("compressor=tome").flops.total
    found = job("compressor=tome", "task.decide_with=uncompressed")
    share = 75 / 125  # fifteen timesteps for five classes, after five for ten
    assert found.flops.total == pytest.approx(short + share * (whole - short), abs=1)
    assert found.run_path != job("compressor=tome").run_path
    with pytest.raises(BiGainError, match="needs a compressor"):
        _ = job("task.decide_with=uncompressed").flops


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": [5], "keep": [5, 1]}, "one entry per stage"),
        ({"samples": [5, 5]}, "must rise"),
        ({"keep": [5, 2]}, "must fall to 1"),
        ({"samples": [15, 20]}, "divide the last"),
        ({"loss": "l3"}, "l2, l1, huber"),
        ({"strategy": "fast"}, "staged, race; got 'fast'"),
        ({"strategy": "race", "agreement": 1.0}, "between 0 and 1, such as 0.99 for 99%"),
        ({"strategy": "race", "agreement": 0}, "between 0 and 1"),
        ({"strategy": "race", "keep": [3, 1]}, r"leave keep at \[5, 1\], or set strategy=staged"),
        ({"strategy": "race", "samples": [15, 20]}, "divide the last"),
        ({"decide_with": "all"}, "compressed, uncompressed; got 'all'"),
        ({"decide_with": "uncompressed", "strategy": "race"}, "at least two stages, got"),
        ({"decide_with": "uncompressed", "samples": [20], "keep": [1]}, "at least two stages"),
        ({"agreement": 0.9}, "remove agreement, or set strategy=race"),
        ({"weights": [1, 2]}, "weights needs 20 finite numbers"),
        ({"weights": [-1, *19 * [1]]}, "none below 0"),
        ({"weights": [float("nan"), *19 * [1]]}, "finite numbers"),
        ({"weights": 20 * [2]}, "remove weights"),
        ({"weights": [1, *19 * [0]]}, "each stage needs a timestep with a weight above 0"),
        ({"weights": 20 * [0]}, "each stage needs a timestep with a weight above 0"),
        ({"weights": 20 * [0], "strategy": "race"}, "needs a timestep with a weight above 0"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        Classify(**arguments)
