"""Experiment files: every one loads at its scales, its rows compose, and a bad one is refused."""

from pathlib import Path

import pandas as pd
import pytest

from bigain.errors import BiGainError
from bigain.experiments import configuration, experiment_files
from bigain.experiments.composition import composed
from bigain.experiments.experiment_types import SCALES
from bigain.experiments.methods import method
from bigain.experiments.published_values import published_values
from bigain.reporting.build import FIGURES
from bigain.utils.paths import REPOSITORY
from tests.experiment_rows import kind_of, representatives

NAMES = experiment_files.names()
BOTH = [(name, scale) for scale in SCALES for name in experiment_files.names(scale)]
ALONE = [name for name in NAMES if not any(name == n for n, _ in BOTH)]


def test_the_paper_s_tables_and_figures_are_there():
    tables = {f"table{n}" for n in (*range(1, 9), 11, 12, 14, 15, 16, 17, 18)}
    figures = {f"figure{n}" for n in (2, 3, 4, 6)}
    assert set(experiment_files.names("paper")) >= tables | figures
    only_paper = {"table18", "figure4"}
    assert set(experiment_files.names("mini")) >= (tables | figures) - only_paper


@pytest.mark.parametrize("name", sorted({*experiment_files.names("mini")} - {"decisions"}))
def test_the_miniature_is_of_both_kinds_of_model(name):
    groups = {group.name for group in experiment_files.load(name, "mini").groups}
    assert {g.removesuffix("_textured") for g in groups} >= {"dit_fashion", "sd_fashion"}


def test_rows_of_another_experiment_less_some():
    names = [
        [row.name for row in experiment_files.load(name, "mini").groups[0].rows]
        for name in ("figure2", "retention")
    ]
    left_out = ("none", "anchored")
    assert names[1] == [name for name in names[0] if not name.startswith(left_out)]
    assert len(names[1]) < len(names[0])


def test_without_names_rows(tmp_path, monkeypatch):
    text = (experiment_files.FOLDER / "retention.yaml").read_text().replace("[none, ", "[nothing, ")
    (tmp_path / "retention.yaml").write_text(text)
    (tmp_path / "figure2.yaml").write_text((experiment_files.FOLDER / "figure2.yaml").read_text())
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path)
    with pytest.raises(BiGainError, match="without names nothing, which is no row"):
        experiment_files.methods_of("retention")


def test_without_needs_rows_of_another_experiment(tmp_path, monkeypatch):
    text = (experiment_files.FOLDER / "retention.yaml").read_text()
    text = text.replace("rows: figure2", "rows: [tome@0.3, tome@0.5]")
    (tmp_path / "retention.yaml").write_text(text)
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path)
    with pytest.raises(BiGainError, match="without works only if rows names another"):
        experiment_files.methods_of("retention")


def test_a_row_may_be_of_some_groups_alone():
    """A DiT has no cross-attention."""
    dit, unet = experiment_files.load("table6", "mini").groups
    names = [{row.name for row in group.rows} for group in (dit, unet)]
    assert names[1] - names[0] == {
        f"{method}_on@{parts}+{ratio}"
        for method in ("tome", "tome_first", "lgtm", "lgtm_official")
        for parts in ("cross", "all")
        for ratio in (0.3, 0.5, 0.7)
    }


@pytest.mark.parametrize(("name", "scale"), [*BOTH, *((name, None) for name in ALONE)])
def test_every_experiment_loads(name, scale):
    experiment = experiment_files.load(name, scale)
    assert experiment.scale == scale
    assert set(experiment.figures) <= set(FIGURES)
    names = [row.name for group in experiment.groups for row in group.rows]
    assert len(names) == len(experiment.rows) and experiment.baseline in names
    every = [entry for row in experiment.rows for entry in row.entries.values()]
    assert all(set(row.entries) <= set(experiment.tasks) for row in experiment.rows)
    assert {len(row.entries) for row in experiment.groups[0].rows} == {len(experiment.tasks)}
    for group in experiment.groups:
        assert len({tuple(row.entries) for row in group.rows}) == 1
    overrides = [tuple(entry.overrides) for entry in every]
    assert len(set(overrides)) == len(overrides), "two rows are the same run"
    assert all(entry.command.startswith("python run.py task=") for entry in every)


@pytest.mark.parametrize("name", ["demo", "table6", "table17", "table14", "figure6"])
def test_rows_compose(name):
    """The others' keys are among theirs, and the other groups' methods in the first of a kind."""
    experiment = experiment_files.load(name)
    groups = {kind_of(group): group for group in reversed(experiment.groups)}
    for group in groups.values():
        for task in group.tasks:
            paths = {row.entries[task].run_path for row in group.rows}
            assert len(paths) == len(group.rows), "two rows are the same run"
    entries = [e for g in groups.values() for row in g.rows for e in row.entries.values()]
    assert all(entry.image_ids() for entry in entries)
    if experiment.scale:
        folder = REPOSITORY / "results" / experiment.scale / "runs"
        assert {entry.run_path.parent for entry in entries} == {folder}


@pytest.mark.parametrize("scale", SCALES)
def test_what_rows_are_made_of_is_valid(scale):
    """Up to what needs data on disk."""
    entries = representatives(scale)
    assert len(entries) > 50
    for entry in entries:
        configuration.check(composed(entry.overrides))


def test_the_controls_stand_beside_their_methods():
    """Traps 1 and 2: deterministic ToMe beside ToMe, the official cells beside L-GTM."""
    for name in experiment_files.names("paper"):
        rows = experiment_files.load(name, "paper").groups[0].rows
        every = [next(iter(row.entries.values())).overrides for row in rows]
        random = [o for o in every if "compressor=tome" in o and "destinations" not in str(o)]
        lowest = [
            o
            for o in every
            if "compressor=lgtm" in o
            and not any(k in str(o) for k in ("cells", "highest", "score"))
        ]
        for found, control in (
            (random, "compressor.destinations=first"),
            (lowest, "compressor.cells=official"),
        ):
            for overrides in found:
                assert any(set(o) - {control} == set(overrides) and control in o for o in every), (
                    name,
                    overrides,
                )


def test_groups_of_other_images_are_other_images():
    first, second, third = experiment_files.load("table14", "mini").groups[:3]
    ids = [set(group.rows[0].entries["classify"].image_ids()) for group in (first, second, third)]
    assert [len(i) for i in ids] == [500] * 3
    assert not (ids[0] & ids[1] or ids[1] & ids[2] or ids[0] & ids[2])
    # the same run holds them all
    paths = {group.rows[0].entries["classify"].run_path for group in (first, second, third)}
    assert len(paths) == 1


def test_extra_overrides_reach_every_row():
    rows = experiment_files.load("demo", extra=["limit=7"]).rows
    entries = [row.entries["classify"] for row in rows]
    assert {len(entry.image_ids()) for entry in entries} == {7}
    assert entries[0].run_path == experiment_files.load("demo").rows[0].entries["classify"].run_path


def test_published_values_stand_beside_their_model_and_data():
    rows = {
        (group.name, row.name): row.published
        for group in experiment_files.load("table4", "paper").groups
        for row in group.rows
    }
    assert rows["sd2_pets", "tome@0.7"] == {"acc1": 65.76, "fid": 38.35}
    assert rows["sd2_coco2017", "lgtm@0.7"] == {"acc1": 61.44, "fid": 28.57}
    assert rows["sd2_pets", "tome@0.3"] == {}
    assert all(not row.published for row in experiment_files.load("table4", "mini").rows)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # 7% of the FLOPs fit SiTo at 0.7, and 14.2% fit ToDo and IE-KVD at factor 8 alone
        ("1", {"none": 81.03, "tome@0.5": 72.96, "sito@0.7": 68.84, "lgtm@0.5": 78.38}
            | {"todo@8": 79.15, "iekvd@8": 79.90}),
        ("2", {"todo@4": 77.46, "iekvd@4": 78.03}),
        ("12", {}),  # whose labels are ambiguous
    ],
)  # fmt: skip
def test_published_accuracies_stand_beside_the_setting_that_fits(table, expected):
    pets = experiment_files.load(f"table{table}", "paper").groups[0].rows
    assert {row.name: row.published["acc1"] for row in pets if row.published} == expected
    others = [
        row.published
        for group in experiment_files.load("table2", "paper").groups
        for row in group.rows
        if group.name == "sd2_coco2017"
    ]
    assert not any(others)  # the paper does not state their factor


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("1,sd2,acc1,81.03,from the summary, rounded", "line 3: 6 fields, but the header has 5"),
        ("1,sd2,acc1,high,", "line 3: value must be a number, got 'high'"),
        ("1,sd2,,81.03,", "line 3: metric is empty"),
    ],
)
def test_a_damaged_list_of_published_values_is_refused_by_line(tmp_path, row, error):
    text = f"table,model,metric,value,note\n1,sd2,fid,20.5,\n{row}\n"
    (tmp_path / "published.csv").write_text(text)
    with pytest.raises(BiGainError, match=rf"published\.csv, {error}"):
        published_values(tmp_path / "published.csv", {}, None)


def test_every_published_value_is_used_or_not_ours():
    """No row shows other methods, differences, FLOPs of an unknown count, unknown settings."""
    table = pd.read_csv(experiment_files.FOLDER / "published.csv", dtype={"table": str})
    shown = 0
    for name in experiment_files.names("paper"):
        if name.startswith("table"):
            shown += sum(len(r.published) for r in experiment_files.load(name, "paper").rows)
    left_out = table["method"].isin(["dip-go", "mosaicdiff", "lgtm-minus-tome"])
    left_out |= table["metric"] == "gflops"
    left_out |= table["table"].isin(["ablation", "12"])
    left_out |= table["setting"] == "factor unknown"
    assert shown == (~left_out).sum()


def test_the_axis_is_the_methods_strength():
    experiment = experiment_files.load("table15")
    assert experiment.axis.startswith("alpha")
    for row in experiment.rows:
        alpha = row.name.removeprefix("iekvd_alpha@")
        assert row.x == (None if row.name == "none" else float(alpha))
    assert experiment_files.load("table16").axis == ""
    assert all(row.x is None for row in experiment_files.load("table16").rows)


def test_an_unknown_experiment_names_those_there_are():
    known = "accepted: budgets, decisions, demo"
    for name in ("absent", "methods"):
        with pytest.raises(BiGainError, match=f"no experiment {name}; .*{known}"):
            experiment_files.load(name)


def test_an_unknown_scale_names_those_there_are():
    with pytest.raises(BiGainError, match="table18 has no scale mini; it has paper"):
        experiment_files.load("table18", "mini")


def test_a_group_takes_part_in_the_tasks_that_it_names():
    tasks = {group.name: group.tasks for group in experiment_files.load("budgets").groups}
    assert tasks["dit_fashion"] == ["classify", "generate"]
    assert tasks["dit_fashion_second"] == tasks["sd_fashion_textured"] == ["classify"]


def test_a_group_that_names_an_unknown_task_is_refused(tmp_path, monkeypatch):
    (tmp_path / "scales").mkdir()
    group = "{title: x, overrides: [], tasks: [classfy]}"
    (tmp_path / "scales" / "mini.yaml").write_text(f"tasks: {{}}\ngroups: {{here: {group}}}\n")
    (tmp_path / "bad.yaml").write_text(GOOD + "groups: {mini: [here]}\nrows: [none]")
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path)
    with pytest.raises(BiGainError, match=r"group here: tasks names 'classfy'; .*classify"):
        experiment_files.load("bad")


def test_a_group_without_any_of_the_tasks_is_refused(tmp_path, monkeypatch):
    text = GOOD.replace("classify", "generate") + "groups: {mini: [dit_fashion_textured]}\n"
    (tmp_path / "bad.yaml").write_text(text + "rows: [none]")
    (tmp_path / "scales").symlink_to(experiment_files.FOLDER / "scales")
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path)
    with pytest.raises(
        BiGainError, match=r"takes part in none of the experiment's tasks \(generate\)"
    ):
        experiment_files.load("bad")


def test_a_table_adds_what_is_its_own(tmp_path, monkeypatch):
    text = """
    title: x
    note: y
    baseline: none
    tasks: {classify: [limit=1]}
    rows:
      - none
      - {method: lgtm_official@0.5, title: "{series} at {strength}", overrides: [blocks=all]}
      - methods: [iekvd_alpha@0.0, iekvd_alpha@2.0]
        title: constant {strength}
        series: constant
    """
    (tmp_path / "own.yaml").write_text(text)
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path)
    none, cells, *constants = experiment_files.load("own").rows
    assert (none.name, none.title, none.series) == ("none", "Uncompressed", "Uncompressed")
    # a title of its own is a series of its own
    assert cells.title == cells.series == "L-GTM, official cells at 0.5"
    assert cells.entries["classify"].overrides == [
        "task=classify",
        "limit=1",
        *method("lgtm_official@0.5").overrides,
        "blocks=all",
    ]
    assert [row.title for row in constants] == ["constant 0.0", "constant 2.0"]
    assert {row.series for row in constants} == {"constant"}
    assert [found.reference for found in experiment_files.methods_of("own")] == [
        "none",
        "lgtm_official@0.5",
        "iekvd_alpha@0.0",
        "iekvd_alpha@2.0",
    ]


GOOD = "title: x\nnote: y\nbaseline: none\ntasks: {classify: []}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "must have the keys"),
        (GOOD + "rows: []\nrow: 1\n", "must have the keys"),
        (GOOD.replace("none", "tome@0.5") + "rows: [none]", "baseline one of them"),
        (GOOD + "rows: [none, none]", "must be unique"),
        (GOOD + "rows: [none, tome@0.4]", r"bad.yaml: .* no method tome@0\.4; did you mean tome@0"),
        (GOOD + "rows: [none, 5]", "a row is a method of methods.yaml, such as tome@0.5, or a map"),
        (
            GOOD + "rows: [{method: none, methods: [none]}]",
            "a mapping of method or methods and any",
        ),
        (
            GOOD + "rows: [{method: none, name: x}]",
            "any of groups, overrides, published, series, t",
        ),
        (GOOD + 'rows: [{method: none, title: "{x}"}]', "'{x}' names a value that the method does"),
        (GOOD + "groups: {mini: [absent]}\nrows: [none]", "has no group absent; it has dit"),
        (GOOD + "axis: X\nrows: [none, keep@low]", "row keep@low: .* so it must be a number"),
        (
            GOOD + "rows: [{method: none, published: {table: '4', method: none}}]",
            "published.csv holds no",
        ),
    ],
)
def test_a_bad_file_is_refused(tmp_path, monkeypatch, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    for shared in ("scales", "published.csv"):
        (tmp_path / shared).symlink_to(experiment_files.FOLDER / shared)
    monkeypatch.setattr(experiment_files, "FOLDER", Path(tmp_path))
    with pytest.raises(BiGainError, match=message):
        experiment_files.load("bad")
