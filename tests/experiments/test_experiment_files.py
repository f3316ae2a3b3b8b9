"""Experiment files: every one loads at its scales, its rows compose, and a bad one is refused."""

from pathlib import Path

import pandas as pd
import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from bigain.errors import BiGainError
from bigain.experiments import configuration, experiment_files
from bigain.reporting.build import FIGURES
from bigain.utils.paths import REPOSITORY

NAMES = experiment_files.names()
BOTH = [
    (name, scale) for scale in experiment_files.SCALES for name in experiment_files.names(scale)
]
ALONE = [name for name in NAMES if not any(name == n for n, _ in BOTH)]


def test_the_paper_s_tables_and_figures_are_there():
    tables = [f"table{n}" for n in (*range(1, 9), 11, 12, 14, 15, 16, 17, 18)]
    figures = [f"figure{n}" for n in (2, 3, 4, 6)]
    more = {"destinations", "retention"}
    assert set(experiment_files.names("paper")) == {*figures, *tables, *more}
    # in miniature both kinds of model are in every one
    ours = {"joint", "destinations", "retention", "texture"}
    assert set(experiment_files.names("mini")) == {*figures, *tables, *ours} - {
        "table18",
        "figure4",
    }


@pytest.mark.parametrize("name", experiment_files.names("mini"))
def test_the_miniature_is_of_both_kinds_of_model(name):
    groups = {group.name for group in experiment_files.load(name, "mini").groups}
    assert {g.removesuffix("_textured") for g in groups} >= {"dit_fashion", "sd_fashion"}


def test_rows_of_another_experiment_less_some():
    names = [
        [row.name for row in experiment_files.load(name, "mini").groups[0].rows]
        for name in ("joint", "retention")
    ]
    assert names[1] == [name for name in names[0] if name != "none"]


def test_without_names_rows(tmp_path, monkeypatch):
    text = (experiment_files.FOLDER / "retention.yaml").read_text().replace("[none]", "[nothing]")
    (tmp_path / "retention.yaml").write_text(text)
    (tmp_path / "joint.yaml").write_text((experiment_files.FOLDER / "joint.yaml").read_text())
    monkeypatch.setattr(experiment_files, "FOLDER", tmp_path)
    with pytest.raises(BiGainError, match="without names nothing, which is no row"):
        experiment_files.rows("retention")


def test_a_row_may_be_of_some_groups_alone():
    """A DiT has no cross-attention."""
    dit, unet = experiment_files.load("table6", "mini").groups
    names = [{row.name for row in group.rows} for group in (dit, unet)]
    assert names[1] - names[0] == {
        f"{method}_{site}"
        for method in ("tome", "tome_first", "lgtm", "lgtm_official")
        for site in ("cross", "all")
    }


@pytest.mark.parametrize(("name", "scale"), [*BOTH, *((name, None) for name in ALONE)])
def test_every_experiment_loads(name, scale):
    experiment = experiment_files.load(name, scale)
    assert experiment.scale == scale
    assert set(experiment.figures) <= set(FIGURES)
    names = [row.name for group in experiment.groups for row in group.rows]
    assert len(names) == len(experiment.rows) and experiment.baseline in names
    every = [cell for row in experiment.rows for cell in row.cells.values()]
    assert len(every) == len(names) * len(experiment.tasks)
    overrides = [tuple(cell.overrides) for cell in every]
    assert len(set(overrides)) == len(overrides), "two rows are the same run"
    assert all(cell.command.startswith("python run.py task=") for cell in every)


@pytest.mark.parametrize("name", ["demo", "table6", "table17", "table14", "figure6"])
def test_rows_compose(name):
    """The others' keys are among theirs."""
    experiment = experiment_files.load(name)
    for group in experiment.groups:
        for task in experiment.tasks:
            paths = {row.cells[task].run_path for row in group.rows}
            assert len(paths) == len(group.rows), "two rows are the same run"
    cells = experiment.cells
    assert all(cell.image_ids() for cell in cells)
    if experiment.scale:
        folder = REPOSITORY / "results" / experiment.scale / "runs"
        assert {cell.run_path.parent for cell in cells} == {folder}


@pytest.mark.parametrize("name", experiment_files.names("paper"))
def test_rows_of_the_paper_s_scale_compose(name, configure):
    """Up to what needs data on disk."""
    for cell in experiment_files.load(name, "paper").cells:
        configuration.check(configure(cell.overrides))


def test_the_controls_stand_beside_their_methods():
    """Traps 1 and 2: deterministic ToMe beside ToMe, the official cells beside L-GTM."""
    for name in experiment_files.names("paper"):
        rows = experiment_files.load(name, "paper").groups[0].rows
        every = [next(iter(row.cells.values())).overrides for row in rows]
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
    ids = [set(group.rows[0].cells["classify"].image_ids()) for group in (first, second, third)]
    assert [len(i) for i in ids] == [500] * 3
    assert not (ids[0] & ids[1] or ids[1] & ids[2] or ids[0] & ids[2])
    # the same run holds them all
    paths = {group.rows[0].cells["classify"].run_path for group in (first, second, third)}
    assert len(paths) == 1


def test_extra_overrides_reach_every_row():
    cells = [row.cells["classify"] for row in experiment_files.load("demo", extra=["limit=7"]).rows]
    assert {len(cell.image_ids()) for cell in cells} == {7}
    assert cells[0].run_path == experiment_files.load("demo").rows[0].cells["classify"].run_path


def test_published_values_stand_beside_their_model_and_data():
    rows = {
        (group.name, row.name): row.published
        for group in experiment_files.load("table4", "paper").groups
        for row in group.rows
    }
    assert rows["sd2_pets", "tome_0.7"] == {"acc1": 65.76, "fid": 38.35}
    assert rows["sd2_coco2017", "lgtm_0.7"] == {"acc1": 61.44, "fid": 28.57}
    assert rows["sd2_pets", "tome_0.3"] == {}
    assert all(not row.published for row in experiment_files.load("table4", "mini").rows)


def test_every_published_value_is_used_or_not_ours():
    """No row shows other methods, differences, FLOPs of an unknown count, unknown settings."""
    table = pd.read_csv(experiment_files.FOLDER / "published.csv", dtype={"table": str})
    shown = 0
    for name in experiment_files.names("paper"):
        if name.startswith("table"):
            shown += sum(len(r.published) for r in experiment_files.load(name, "paper").rows)
    left_out = table["method"].isin(["dip-go", "mosaicdiff", "lgtm-minus-tome"])
    left_out |= table["metric"] == "gflops"
    left_out |= table["table"] == "ablation"
    assert shown == (~left_out).sum()


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["compressor=iekvd", "compressor.alpha={noise: 0.8, clean: 1.2}", "limit=7", "limit=9"],
        ["seed=1", "task=generate", "protocol=adm", "model=sd2", "task.steps=5", "seed=1"],
        ["compressor=lgtm_iekvd", "compressor._args_.0.ratio=0.3", "task.samples=[1,2]"],
        ["task={name: x}", "+logger.extra=1", "~model.blocks", "blocks=all", "hydra.verbose=true"],
    ],
)
def test_a_configuration_is_hydra_s(configure, overrides):
    for _ in range(2):  # the second time from what the first one left
        found, wanted = experiment_files.composed(overrides), configure(overrides)
        assert found == wanted and list(found) == list(wanted)
        assert OmegaConf.is_struct(found) and not OmegaConf.is_readonly(found)
        found.task.name = "other"


@pytest.mark.parametrize("name", ["table4", "table16", "figure6"])
def test_configurations_of_an_experiment_are_hydra_s(configure, name):
    for cell in experiment_files.load(name, "paper").cells:
        assert experiment_files.composed(cell.overrides) == configure(cell.overrides)


@pytest.mark.parametrize(
    "override",
    [
        "compressor=absent",
        "absent=1",
        "compressor.absent=1",
        "limit=x",
        "seed=1,2",
        "seed@x=1",
        "[",
    ],
)
def test_what_cannot_be_composed_fails_in_hydra_s_words(configure, override):
    with pytest.raises(HydraException) as wanted:
        configure(["compressor=lgtm", override])
    with pytest.raises(HydraException) as found:
        experiment_files.composed(["compressor=lgtm", override])
    assert configuration.explain(found.value) == configuration.explain(wanted.value)


def test_the_axis_is_a_setting_of_the_rows():
    experiment = experiment_files.load("table15")
    assert experiment.axis.startswith("alpha")
    for row in experiment.rows:
        assert row.x == (None if row.name == "none" else float(row.name.removeprefix("alpha_")))
    assert experiment_files.load("table16").axis == ""
    assert all(row.x is None for row in experiment_files.load("table16").rows)


def test_an_unknown_experiment_names_those_there_are():
    with pytest.raises(BiGainError, match="demo"):
        experiment_files.load("absent")


def test_an_unknown_scale_names_those_there_are():
    with pytest.raises(BiGainError, match="table18 has no scale mini; it has paper"):
        experiment_files.load("table18", "mini")


GOOD = "title: x\nnote: y\nbaseline: a\ntasks: {classify: []}\n"
ROW = "{name: a, title: A, overrides: []"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "must have the keys"),
        (GOOD + "rows: []\nrow: 1\n", "must have the keys"),
        (GOOD.replace("baseline: a", "baseline: b") + f"rows: [{ROW}}}]", "baseline one of them"),
        (GOOD + f"rows: [{ROW}}}, {ROW}}}]", "must be unique"),
        (GOOD + f"groups: {{mini: [absent]}}\nrows: [{ROW}}}]", "has no group absent; it has dit"),
        (GOOD + f"axis: {{setting: x}}\nrows: [{ROW}}}]", "axis takes setting"),
        (
            GOOD + "axis: {setting: x, label: X}\nrows: [{name: a, title: A, overrides: [x=b]}]",
            "row a: x is the axis, so it takes a number",
        ),
        (
            GOOD + f"rows: [{ROW}, published: {{table: '4', method: none}}}}]",
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
