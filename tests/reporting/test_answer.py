"""What the report page says to use, and that its code does what the runs did."""

from types import SimpleNamespace

import pytest

import bigain
from bigain.experiments.experiment_files import Row, load
from bigain.reporting.answer import answer, code

OTHER = {"n": 500, "generated": 1000, "time_low": 0.9}


def line(method, lost, rise, gflops, time, half=3.0):
    """A row that loses so many points and raises FID so much, give or take."""
    return OTHER | {
        "method": method,
        "acc1": 80 - lost,
        "difference": -lost,
        "diff_low": -lost - half,
        "diff_high": -lost + half,
        "fid": 2 + rise,
        "fid_difference": rise,
        "fid_diff_low": rise - half / 10,
        "fid_diff_high": rise + half / 10,
        "gflops": gflops,
        "time": time,
        "time_high": time,
    }


PLAIN = OTHER | {"method": "Uncompressed", "acc1": 80.0, "fid": 2.0, "gflops": 1.0, "time": 1.0}


def made(*rows):
    """The answer from the uncompressed model and these rows."""
    setup = SimpleNamespace(
        compressor=bigain.ToMe(0.3),
        blocks="all",
        sites=("self_attention",),
        decide_on="default",
    )
    entry = SimpleNamespace(job=SimpleNamespace(setup=setup))
    entries = {"classify": entry, "generate": entry}
    methods = [Row(row["method"], row["method"], "", entries) for row in (PLAIN, *rows)]
    return answer("Model", methods, [PLAIN, *rows], "Uncompressed")


def jobs(found):
    return {job: choice.method for choice in found.choices for job in choice.jobs}


def test_the_cheapest_that_keeps_a_value_is_chosen():
    found = made(
        line("mild", 0.5, 0.1, 0.9, 1.1),
        line("accurate", 2.0, 0.9, 0.5, 1.2),
        line("pleasing", 9.0, 0.2, 0.6, 1.2),
        line("fast", 20.0, 3.0, 0.7, 0.8),
    )
    assert jobs(found) == {
        "Classify": "accurate",
        "Generate": "pleasing",
        "Both with one setting": "mild",
        "Save time": "fast",
    }
    verdicts = {choice.method: choice.verdict for choice in found.choices}
    assert verdicts == {
        "Uncompressed": "the reference",
        "accurate": "accuracy kept, FID worse",
        "pleasing": "FID kept, accuracy worse",
        "mild": "accuracy and FID kept",
        "fast": "accuracy and FID worse",
    }
    said = "to save time, use fast (−30% GFLOPs, 0.80 times the time, accuracy and FID worse)"
    assert said in found.sentence
    assert found.generating.method == "pleasing"
    assert found.images == "500 classified and 1,000 generated images"


def test_where_nothing_is_kept_the_least_loss_decides_also_at_equal_costs():
    found = made(
        line("first", 11.0, 2.2, 0.5, 1.1),
        line("second", 10.0, 2.0, 0.5, 1.1),
        line("worst", 40.0, 9.0, 0.2, 1.1),
    )
    assert set(jobs(found).values()) == {"second"} and "Save time" not in jobs(found)


def test_without_accuracy_and_fid_there_is_no_answer():
    assert made({**line("a", 1, 1, 0.5, 1), "fid_difference": None}) is None
    assert made() is None


@pytest.mark.parametrize("name", ["tome@0.5", "lgtm_cached@0.5", "lgtm_iekvd@0.5+2", "iekvd@2"])
def test_its_code_makes_the_compressor_of_the_run(name):
    experiment = load("figure2", "mini")
    entry = next(r for r in experiment.rows if r.name == name).entries["classify"]
    calls = []
    stand_in = SimpleNamespace(
        **{n: getattr(bigain, n) for n in ("ToMe", "LGTM", "Cached", "Compose", "IEKVD")},
        compress=lambda pipe, compressor, **where: calls.append((compressor, where)),
    )
    exec(code(entry), {"bigain": stand_in, "pipe": None})
    assert calls == [(entry.job.setup.compressor, {"blocks": "all"})]
    assert any(word in code(entry) for word in ("ratio=0.5", "factor=2"))


def test_its_code_names_which_tokens_decide():
    setup = SimpleNamespace(
        compressor=bigain.ToMe(0.3),
        blocks="default",
        sites=("self_attention",),
        decide_on="attention_input",
    )
    entry = SimpleNamespace(job=SimpleNamespace(setup=setup))
    called = 'bigain.compress(pipe, bigain.ToMe(ratio=0.3), decide_on="attention_input")'
    assert code(entry) == called
