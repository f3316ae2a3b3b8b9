"""task=tune: what is refused, what is run, and the config that comes out."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bigain.errors import BiGainError
from bigain.experiments import tuning
from bigain.experiments.composition import CONFIGS, composed
from bigain.experiments.configuration import settings_of, shard_of
from bigain.experiments.job import Job
from bigain.experiments.runner import execute
from bigain.experiments.schema import explain
from bigain.experiments.tuning import Tuning, override_text
from bigain.store.runs import Run
from tests.runs import finish

SPACES: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "task" / "tune.yaml").spaces)
# the model of random weights takes 0.83 (one block) and 0.66 (both) of its FLOPs at ratio 0.5, and
# 0.79 and 0.57 at 0.7
RATIOS = "task.space={compressor.ratio: [0.5, 0.7], blocks: [[0], all]}"
FEW = "task.classify={start: 3, limit: 4, task.samples: [1, 2], task.keep: [2, 1]}"


@pytest.fixture
def given(small_dit, tmp_path) -> list[str]:
    """A search over four candidates by four images, three of which fit."""
    model = [f"model.path={small_dit}", "compressor=tome", f"results={tmp_path / 'results'}"]
    return ["task=tune", *model, "task.budget=0.8", FEW, "task.generate=null", RATIOS]


@pytest.fixture
def tuned(capsys):
    """Runs a search; gives the lines of its table and the path of its config."""

    def run(given: list[str]) -> tuple[list[str], Path]:
        Tuning(settings_of(composed(given)), given).run()
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line[:1] == "|"], Path(lines[-1])

    return run


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "results" / "runs").glob("*"))


@pytest.mark.slow
def test_the_best_candidate_s_config_is_used_from_the_command_line(tmp_path):
    """With the embedded model, by both jobs."""
    few = ["evaluation.allow_few=true", "evaluation.replicates=5", f"results={tmp_path}"]
    chosen = ["task=tune", "task.budget=0.7", "compressor=tome", "dtype=bfloat16", *few]
    space = "task.space={compressor.ratio: [0.5, 0.75, 0.3], blocks: [all]}"
    jobs = ["task.classify.limit=3", "task.generate={limit: 8, task.steps: 2}", space]
    told = finish(*chosen, *jobs, folder=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "2 of 3 candidates take at most 0.7 of the uncompressed" in told.stdout
    table = [line.split("|")[1:-1] for line in told.stdout.splitlines() if line[:1] == "|"]
    assert [name.strip() for name in table[0]][2:] == ["Accuracy (%)", "FID", "Loss (points)"]
    assert table[2][0].strip() == "uncompressed" and float(table[2][-1]) == 0
    losses = [float(line[-1].replace("−", "-")) for line in table[3:]]
    assert losses == sorted(losses) and len(losses) == 2
    best = table[3][0].strip()
    assert best in ("blocks=all compressor.ratio=0.5", "blocks=all compressor.ratio=0.75")

    # both commands that it prints, under the settings of a finished job, find the candidate's run
    commands = [
        shlex.split(line)[2:]
        for line in told.stdout.splitlines()
        if line.startswith("  python run.py")
    ]
    assert len(commands) == 2 and "--config-dir" in commands[0] and best.split()[0] in commands[1]
    job = ["start=5000", "limit=3", "task.samples=[4,8]", "task.keep=[2,1]"]
    for command in commands:
        again = finish(*command, *job, folder=tmp_path)
        assert "nothing to compute: all 3 images" in again.stdout, again.stderr
    # beside the config, compressor=none is refused: it would not leave the model uncompressed
    refused = finish(*commands[0], *job, "compressor=none", folder=tmp_path)
    assert "is not a key of compressor" in refused.stderr and refused.returncode == 1


def test_a_sweep_over_searches_is_refused(given, tmp_path):
    told = finish("-m", *given, folder=tmp_path)
    assert told.returncode == 1 and "task=tune runs its candidates one after another" in told.stderr
    assert not runs(tmp_path)


def test_every_candidate_is_an_ordinary_run_and_an_interrupted_search_resumes(
    given, tuned, tmp_path, monkeypatch
):
    whole, _ = tuned([*given[:3], f"results={tmp_path / 'other'}", *given[4:]])
    calls = []

    def interrupted(*arguments: Any) -> Run | None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return execute(*arguments)

    monkeypatch.setattr(tuning, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(given)
    assert len(runs(tmp_path)) == 2
    monkeypatch.setattr(tuning, "execute", execute)
    table, path = tuned(given)
    assert table == whole and len(table) == 6
    assert len(runs(tmp_path)) == 4  # the uncompressed one, and three candidates
    for run in runs(tmp_path):
        (session,) = json.loads((run / "sessions.json").read_text())["sessions"]
        assert session["images"] == 4
        overrides = shlex.split(session["command"])[2:]
        assert Job(settings_of(composed(overrides))).run_path.name == run.name
    # the same question has the same config, however it is asked
    turned = RATIOS.replace("[0.5, 0.7]", "[0.7, 0.5, 0.7]").replace("[[0], all]", "[all, [0]]")
    assert tuned([*given[:-1], turned]) == (table, path)


def test_a_seeded_search_over_more_than_it_runs(given, tuned, tmp_path):
    first, _ = tuned([*given, "task.candidates=2"])
    assert len(first) == 5 and len(runs(tmp_path)) == 3
    assert tuned([*given, "task.candidates=2"])[0] == first and len(runs(tmp_path)) == 3


def test_what_does_not_fit_is_refused_before_anything_is_run(given, tmp_path):
    with pytest.raises(BiGainError) as refused:
        chosen = [*given, "task.budget=0.5"]
        Tuning(settings_of(composed(chosen)), chosen).run()
    assert "none of 4 candidates fits task.budget=0.5: the cheapest" in str(refused.value)
    assert "blocks=all compressor.ratio=0.7, takes 0.571 of" in str(refused.value)
    assert not runs(tmp_path)


def test_methods_are_searched_by_reference(given, tuned):
    """The command line's compressor and its settings give way to those of each method."""
    space = "task.space={method: [todo, tome@0.7, tome_on@cross+0.5], blocks: [all]}"
    table, path = tuned([*given[:-1], space, "compressor.merge=keep", "task.candidates=3"])
    found = {line.split("|")[1].strip().removesuffix(" blocks=all") for line in table[3:]}
    assert found <= {"todo@2", "todo@3", "todo@4", "todo@8", "tome@0.7"} and len(found) == 3
    written = OmegaConf.load(path)
    assert written.blocks == "all" and written.compressor.get("merge", "mean") == "mean"


def test_candidates_that_cannot_be_run_are_named(given, capsys):
    chosen = [*given[:-1], "task.space={method: [tome@0.7, tome_on@cross+0.5], blocks: [all]}"]
    Tuning(settings_of(composed(chosen)), chosen)._usable()
    printed = capsys.readouterr().out
    assert "1 of 2 candidates take" in printed
    assert "1 cannot be run, such as tome_on@cross+0.5 blocks=all: " in printed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["task.budget=0"], "budget is a share of the uncompressed model's FLOPs, above 0"),
        (["task.budget=1.1"], "above 0 and at most 1, such as 0.7; got 1.1"),
        (["task.candidates=0"], "candidates must be at least 1"),
        (["task.points_per_fid=-1"], "points_per_fid must be at least 0"),
        (["task.classify=null"], "nothing is left to judge candidates by"),
        (["task.space=[1]"], "task.space must be a mapping to a list of values or null; got [1]"),
        (["task.space={blocks: []}"], "task.space gives blocks no values"),
        (["task.space={dtype: [float16]}"], "task.space names 'dtype'"),
        (["task.space={method: [a], compressor: [tome]}"], "names method and compressor"),
        (["task.space={method: [tom@0.5]}"], "holds no method tom@0.5; did you mean tome@0.5"),
        (["task.space={method: [1]}"], "takes references such as tome@0.5; got 1"),
        (["task.space={compressor.ration: [0.5]}"], "did you mean ratio?"),
        (["task.space={compressor.ratio: [x]}"], "ratio must be a number; got 'x'"),
        (["blocks=all", "task.space={compressor: [abm], compressor.ratio: [null], compressor.threshold: [0.1]}"], "depend on the image"),  # noqa: E501
        ([f"task.space={{compressor.ratio: {[n / 9999 for n in range(1001)]}}}"], "1,001 combinations"),  # noqa: E501
        (["compressor=frequency", "task.space=null"], "no values are known to try for compressor=frequency"),  # noqa: E501
        (["limit=3"], "remove limit=3, and set task.classify.limit"),
        (["start=3"], "remove start=3"),
        (["shards=2", "shard=0"], "task=tune has no shards"),
        (["task.classify.limit=100000"], "100000"),
        (["task.generate={}", "features=none"], "features=none"),
        (["task.generate={}", "evaluation.metrics.fid=null"], "evaluation.metrics.fid=null leaves it out"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_is_refused_names_what_is_accepted(given, changed, message, tmp_path):
    chosen = [*given[:-1], *([] if "space" in changed[-1] else [RATIOS]), *changed]
    with pytest.raises(Exception) as refused:
        cfg = composed(chosen)
        Tuning(settings_of(cfg, shard_of(cfg)), chosen).run()
    said = explain(refused.value)
    assert message in said and "\n" not in said
    assert not runs(tmp_path)


def test_too_few_images_for_fid_are_said_so(given, tmp_path):
    chosen = [*given, "task.generate={limit: 4, task.steps: 2}"]
    with pytest.raises(BiGainError, match=r"raise task\.generate\.limit"):
        Tuning(settings_of(composed(chosen)), chosen).run()
    assert all("none" in run.name for run in runs(tmp_path))


@pytest.mark.parametrize(
    ("changed", "others"),
    [
        ([], "limit=3"),
        (["~task.classify.start"], "start=4"),
        (["task.classify=null", "task.generate={seed: 1}"], "seed=2"),
    ],
)
def test_the_commands_it_ends_with_leave_out_the_images_of_the_search(given, changed, others):
    chosen = [*given, *changed]
    search = Tuning(settings_of(composed(chosen)), chosen)
    best = search.candidate((0, 0))
    for command in search._commands(best, Path("NAME.yaml")):
        assert shlex.split(command)[-1] == others


def test_overrides_of_the_command_line_that_share_a_key_are_all_kept(given):
    """A group's option, and a mapping of values for it."""
    chosen = [*given, "dataset=folder", "dataset={root: data}", "compressor.ratio=0.1"]
    overrides = Tuning(settings_of(composed(chosen)), chosen).candidate((0, 0)).entries["classify"]
    cfg = composed(overrides.overrides)
    assert (cfg.dataset.name, cfg.dataset.root, cfg.compressor.ratio) == ("folder", "data", 0.5)


def test_flops_are_those_of_each_job_s_own_model(given, save_dit, tmp_path):
    other = save_dit(tmp_path / "other", num_layers=3)
    chosen = [*given, f"task.generate={{model.path: {other}}}"]
    search = Tuning(settings_of(composed(chosen)), chosen)
    classify, generate = (entry.job for entry in search.uncompressed.entries.values())
    assert search._flops(classify).total < search._flops(generate).total


def test_a_cascade_is_compared_with_the_uncompressed_stages(given):
    chosen = [*given, "+task.classify={task.decide_with: uncompressed}"]
    search = Tuning(settings_of(composed(chosen)), chosen)
    entries = search.candidate((0, 0)).entries["classify"], search.uncompressed.entries["classify"]
    assert entries[0].job.uncompressed().run_path == entries[1].job.run_path
    assert entries[0].job.flops != search.candidate((0, 1)).entries["classify"].job.flops


@pytest.mark.parametrize("name", SPACES)
def test_values_that_are_tried_by_default_can_be_used(name):
    """Each value alone; combinations that a compressor refuses are left out of a search."""
    for key, values in SPACES[name].items():
        for value in values if key != "method" else []:
            base = [] if name == "none" else [f"compressor={name}"]
            settings_of(composed([*base, f"{key}={override_text(value)}"]))
    given = ["task=tune", f"compressor={name}"]
    Tuning(settings_of(composed(given)), given)


@pytest.mark.parametrize(
    "value",
    [None, True, 0.5, -3, 1e-7, "lowest", "null", "True", "0.5", "a b", "it's", "", [0, [1]], {},
     {"noise": 0.8, "clean": 1.2}, {64: 4, 32: 2}, ["self_attention", "mlp"], "a,b", "x\\y"],
)  # fmt: skip
def test_a_value_survives_the_command_line(value):
    (override,) = OverridesParser.create().parse_overrides([f"key={override_text(value)}"])
    found = override.value()
    assert found == value and isinstance(found, type(value))


def test_a_compressor_that_is_no_option_is_written_whole(given, tuned):
    """What the option holds and the compressor lacks could not be removed by a merge."""
    rest = ["~compressor.compressor", "+compressor.compressor={_target_: bigain.compressors.LGTM}"]
    space = "task.space={compressor.every: [2], blocks: [all]}"
    chosen = ["compressor=anchored" if o == "compressor=tome" else o for o in given[:-1]]
    _, path = tuned([*chosen, "task.budget=1", *rest, space])
    written: Any = OmegaConf.to_container(OmegaConf.load(path))
    assert "defaults" not in written and written["compressor"]["name"] == "anchored"
    assert written["compressor"]["compressor"] == {"_target_": "bigain.compressors.LGTM"}
    assert "report it on others" in path.read_text()
