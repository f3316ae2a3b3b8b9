"""An experiment's table and figures, from runs with known results."""

import csv
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bigain.errors import BiGainError
from bigain.experiments.experiment_files import Group
from bigain.experiments.scoring_settings import metric_kinds
from bigain.reporting.build import build, draw_overview, pictures_of
from bigain.reporting.figures import panels_of, tradeoff
from bigain.store.runs import Run
from bigain.tasks.classify_columns import PANEL
from bigain.tasks.generate_columns import score_keys
from bigain.utils.images import write_sheet

IDS = [f"{i:03d}" for i in range(20)]


@dataclass(frozen=True)
class Entry:
    run_path: Path
    command: str
    record: str | None = None

    def scores(self, run):
        return run.read_record(self.record) if self.record else None

    def scored(self, run):
        return self.record is None or self.scores(run) is not None

    def image_ids(self):
        return IDS


class Row:
    """A method under some tasks, given the folder of each task's run."""

    def __init__(self, name, run_path=None, generate=None, series=None):
        self.name, self.title = name, f"{name} method"
        self.series = series or self.title
        self.published = {}
        self.x = None
        self.entries = {}
        if run_path:
            self.entries["classify"] = Entry(run_path, f"python run.py compressor={name}")
        if generate:
            self.entries["generate"] = Entry(
                generate, f"python run.py task=generate {name}", "scores"
            )


@dataclass(frozen=True)
class Experiment:
    rows: list
    baseline: str = "none"
    name: str = "toy"
    title: str = "Toy"
    note: str = ""
    tasks: tuple = ("classify",)
    figures: tuple = ()
    axis: str = ""
    spent: bool = True
    maps: dict = field(default_factory=dict)

    @property
    def groups(self):
        return [Group("", "", self.rows)]


def compressed(name):
    return None if name == "none" else {"compressor": {"class": name}}


def make(root, name, right, ids=IDS):
    identity = {"compression": compressed(name), "dtype": "float32"}
    run = Run.create(root, name, identity, {"model": {"name": "toy"}})
    rows = [
        {
            "image_id": i,
            "labels": [1],
            "prediction": 1 if int(i) < right else 0,
            "samples": [4, 6],
            "seconds": 0.5,
        }
        for i in ids
    ]
    run.append(rows)
    return run


def read(out):
    with open(out / "toy.csv") as file:
        return {line["method"]: line for line in csv.DictReader(file)}


def test_rows_come_from_their_runs(tmp_path, capsys):
    none, tome = make(tmp_path, "none", 15), make(tmp_path, "tome", 12)
    tome.record(
        "cost", {"gflops": 2.0, "gflops_matching": 0.5, "peak_memory_mib": None, "device": "x"}
    )
    sito = make(tmp_path, "sito", 11, IDS[:-3])
    experiment = Experiment(
        [
            Row("tome", tome.path),  # the baseline need not come first
            Row("none", none.path),
            Row("sito", sito.path),
            Row("lgtm", tmp_path / "not-run"),
        ]
    )
    out = tmp_path / "out"
    text = build(experiment, out)
    assert text == (out / "toy.md").read_text()
    lines = read(out)
    assert (lines["tome method"]["acc1"], lines["tome method"]["losses"]) == ("60.0", "3")
    assert (lines["tome method"]["gflops"], lines["tome method"]["peak_memory_mib"]) == ("2.0", "")
    assert lines["tome method"]["fingerprint"] == tome.fingerprint
    assert (lines["none method"]["acc1"], lines["none method"]["p"]) == ("75.0", "")
    for name in ("sito", "lgtm"):
        assert {key for key, value in lines[f"{name} method"].items() if value} == {"method"}
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "lacks 3 of 20 images: 017, 018, 019;" in said[0]
    assert said[0].endswith("python run.py compressor=sito")
    assert Image.open(out / "toy.png").width > 500


def test_without_its_baseline_a_row_has_no_difference(tmp_path):
    tome = make(tmp_path, "tome", 12)
    build(Experiment([Row("none", tmp_path / "not-run"), Row("tome", tome.path)]), tmp_path / "out")
    line = read(tmp_path / "out")["tome method"]
    assert (line["acc1"], line["difference"], line["p"]) == ("60.0", "", "")


def test_nothing_run_is_a_table_of_dashes_and_no_figure(tmp_path, capsys):
    build(Experiment([Row("none", tmp_path / "not-run")]), tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".md", ".tex"]
    assert "no figure" in capsys.readouterr().err


def test_a_damaged_run_is_an_error_and_no_dash(tmp_path):
    run = make(tmp_path, "none", 15)
    next(run.path.glob("part-*")).write_bytes(b"")
    with pytest.raises(BiGainError, match="cannot be read"):
        build(Experiment([Row("none", run.path)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_baseline_that_is_no_row_is_refused(tmp_path):
    with pytest.raises(BiGainError, match="baseline dit, which is none of its rows"):
        build(Experiment([Row("none", tmp_path)], baseline="dit"), tmp_path)


def draw(root, name, evaluations=20, scores=None, ids=IDS):
    """A run of generated images."""
    identity = {"generate": name, "compression": compressed(name)}
    run = Run.create(root, f"generate-{name}", identity, {})
    write_sheet(run.path / "sheet.png", [np.full((8, 8, 1), int(i), np.uint8) for i in ids])
    run.append(
        [
            {
                "image_id": i,
                "label": int(i) % 3,
                "prompt": f"a photo of a {int(i) % 3}.",
                "evaluations": evaluations,
                "seconds": 0.25,
            }
            for i in ids
        ]
    )
    run.record("cost", {"gflops": 2.0, "gflops_matching": 0.5, "peak_memory_mib": 7.0})
    if scores:
        run.record("scores", scores)
    return run


def scored(fid, replicates, **changes):
    return {
        **dict.fromkeys(score_keys(metric_kinds())),
        "features": "fashion",
        "network": "n",
        "reference": "r",
        "reference_name": "garments",
        "reference_n": 60000,
        "n": 20,
        "fid": fid,
        "fid_low": fid - 1,
        "fid_high": fid + 1,
        "fid_replicates": replicates,
        "precision": 0.5,
        **changes,
    }


def test_accuracy_and_fid_stand_side_by_side(tmp_path):
    none, tome = make(tmp_path, "none", 15), make(tmp_path, "tome", 12)
    whole = draw(tmp_path, "none", scores=scored(10.0, [9.0, 10.0, 11.0]))
    merged = draw(tmp_path, "tome", scores=scored(14.0, [13.0, 13.0, 16.0]))
    rows = [Row("none", none.path, whole.path), Row("tome", tome.path, merged.path)]
    out = tmp_path / "out"
    text = build(Experiment(rows, tasks=("classify", "generate")), out)
    line = read(out)["tome method"]
    assert (line["acc1"], line["fid"], line["generated"]) == ("60.0", "14.0", "20")
    assert (line["features"], line["reference"], line["reference_n"]) == (
        "fashion",
        "garments",
        "60000",
    )
    assert float(line["fid_difference"]) == 4
    # replicates are paired: differences 4, 3 and 5
    assert float(line["fid_diff_high"]) == pytest.approx(4 + 1.96)
    assert line["fingerprint"] != line["generate_fingerprint"]
    assert (line["gflops"], line["generate_peak_memory_mib"]) == ("2.0", "7.0")
    assert "FID (fashion)" in text and "60,000 images of garments" in text
    assert Image.open(out / "toy.png").width > 900  # both values, GFLOPs and seconds
    samples = Image.open(out / "toy-samples.png")
    assert samples.size[0] > 300 and samples.size[1] > 150


def test_images_that_are_not_scored_are_dashes(tmp_path, capsys):
    run = draw(tmp_path, "none")
    text = build(Experiment([Row("none", generate=run.path)], tasks=("generate",)), tmp_path / "o")
    assert "have not been scored" in text
    assert "not scored yet: python run.py task=generate none" in capsys.readouterr().err
    line = read(tmp_path / "o")["none method"]
    assert (line["generated"], line["fid"]) == ("20", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": "inception-clean"}, "scored with features inception-clean"),
        ({"reference": "other"}, "scored with reference other"),
        ({"n": 19}, "scored with n 19"),
    ],
)
def test_scores_of_different_making_are_not_compared(tmp_path, change, message):
    whole = draw(tmp_path, "none", scores=scored(10.0, [9.0, 10.0]))
    other = draw(tmp_path, "tome", scores=scored(14.0, [13.0, 13.0], **change))
    rows = [Row("none", generate=whole.path), Row("tome", generate=other.path)]
    with pytest.raises(BiGainError, match=message):
        build(Experiment(rows, tasks=("generate",)), tmp_path / "out")


def test_a_table_takes_one_feature_network_also_without_its_baseline(tmp_path):
    tome = draw(tmp_path, "tome", scores=scored(10.0, [9.0, 10.0]))
    sito = draw(tmp_path, "sito", scores=scored(9.0, [9.0, 9.0], features="dinov2"))
    rows = [Row("none", generate=tmp_path / "not-run")]
    rows += [Row("tome", generate=tome.path), Row("sito", generate=sito.path)]
    with pytest.raises(BiGainError, match="dinov2 against garments and fashion against garments"):
        build(Experiment(rows, tasks=("generate",)), tmp_path / "out")


def test_tasks_of_other_cost_are_not_one_row(tmp_path):
    run, images = make(tmp_path, "none", 15), draw(tmp_path, "none")
    run.record("cost", {"gflops": 3.0, "gflops_matching": 0.5, "peak_memory_mib": None})
    with pytest.raises(BiGainError, match=r"disagree about gflops: 3\.0 and 2\.0"):
        rows = [Row("none", run.path, images.path)]
        build(Experiment(rows, tasks=("classify", "generate")), tmp_path / "out")


def test_an_anchored_row_has_the_flops_of_the_task_that_takes_more(tmp_path):
    """Each task has anchors of its own."""
    whole, run = make(tmp_path, "none", 15), make(tmp_path, "Anchored", 12)
    images = draw(tmp_path, "Anchored")
    run.record("cost", {"gflops": 3.0, "gflops_matching": 0.25, "peak_memory_mib": None})
    none = Row("none", whole.path, tmp_path / "not-run")
    rows = [none, Row("Anchored", run.path, images.path)]
    build(Experiment(rows, tasks=("classify", "generate")), tmp_path / "out")
    line = read(tmp_path / "out")["Anchored method"]
    assert (line["gflops"], line["gflops_matching"]) == ("3.0", "0.25")


class Groups(Experiment):
    """An experiment of two groups."""

    @property
    def groups(self):
        half = len(self.rows) // 2
        return [
            Group("pets", "SD, Pets", self.rows[:half]),
            Group("coco", "SD, COCO", self.rows[half:]),
        ]


def test_groups_have_their_own_baselines_and_published_values(tmp_path):
    runs = [make(tmp_path, f"{n}{g}", n) for g in "ab" for n in (15, 12)]
    rows = [Row(n, run.path) for n, run in zip(["none", "tome"] * 2, runs, strict=True)]
    runs[3].append([])
    rows[1].published = {"acc1": 62.5}
    out = tmp_path / "out"
    text = build(Groups(rows), out)
    assert text.index("## SD, Pets") < text.index("## SD, COCO")
    with open(out / "toy.csv") as file:
        lines = list(csv.DictReader(file))
    assert [line["group"] for line in lines] == ["SD, Pets"] * 2 + ["SD, COCO"] * 2
    assert [line["difference"] for line in lines] == ["", "-15.0", "", "-15.0"]
    assert [line["published_acc1"] for line in lines] == ["", "62.5", "", ""]
    assert lines[1]["from_published_acc1"] == "-2.5"
    first, second = text.split("## SD, COCO")
    assert "Published accuracy" in first and "−2.50" in first
    assert "Published accuracy" not in second.split("\n\n")[1]
    assert runs[0].fingerprint[:8] in first
    assert {p.name for p in out.glob("*.png")} == {"toy-pets.png", "toy-coco.png"}


def test_a_group_has_the_columns_of_its_own_tasks(tmp_path, figures):
    fids = {"none": scored(10.0, [9.0, 10.0, 11.0]), "tome": scored(14.0, [13.0, 13.0, 16.0])}
    classified = {name: make(tmp_path, name, 15).path for name in fids}
    drawn = {name: draw(tmp_path, name, scores=scores).path for name, scores in fids.items()}
    both = [Row(name, classified[name], drawn[name]) for name in fids]
    one = [Row(name, classified[name]) for name in fids]
    groups = [Group("both", "Both", both), Group("one", "One", one)]
    assert [group.tasks for group in groups] == [["classify", "generate"], ["classify"]]
    shape = Experiment(both + one, tasks=("classify", "generate"))
    experiment = SimpleNamespace(**vars(shape), groups=groups)
    counts = {name: pictures_of(experiment, name) for name in ("tradeoff", "samples", "overview")}
    assert counts == {"tradeoff": 2, "samples": 1, "overview": 1}
    text = build(experiment, tmp_path / "out")
    first, second = text.split("## One")
    assert "FID (fashion)" in first and "Accuracy (%)" in second
    assert "FID" not in second.split("\n\n")[1]
    written = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert written == {"toy-both.png", "toy-both-samples.png", "toy-one.png"}
    figures.clear()
    draw_overview(SimpleNamespace(**vars(experiment), overview=()), tmp_path / "a.png")
    assert len(figures[0].axes) == 2, "a group that lacks a task is no column"


def test_a_series_is_one_line_that_goes_from_left_to_right(tmp_path, figures):
    rows = [
        {"method": m, "acc1": a, "low": a - 1, "high": a + 1, "setting": x}
        for m, a, x in (("none", 80, None), ("tome 0.7", 70, 2.0), ("tome 0.3", 79, 1.0))
    ]
    panels = panels_of([PANEL], axis="strength")
    tradeoff(rows, ["none", "ToMe", "ToMe"], panels, tmp_path / "a", "Toy", "none")
    (axes,) = figures[0].axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["ToMe"].get_xdata()) == [1, 2]
    assert list(lines["ToMe"].get_ydata()) == [79, 70]


def test_a_table_is_one_line_per_row_and_long_names_stay_inside(tmp_path, figures):
    rows = [Row("none", make(tmp_path, "none", 15).path)]
    for i in range(9):
        name = f"a method of a very long name, the {i}th of them"
        path = make(tmp_path, f"a{i}", 5 + i).path
        rows.append(Row(name.replace(" ", "_"), path, series=name))
    build(Experiment(rows), tmp_path / "out")
    (figure,) = figures
    values, *costs = figure.axes
    figure.draw_without_rendering()
    labels = values.get_yticklabels()
    assert [text.get_text() for text in labels] == [row.title for row in rows]
    assert min(text.get_window_extent().x0 for text in labels) >= 0
    dots = [line for line in values.get_lines() if line.get_marker() not in ("", "None")]
    assert [dot.get_ydata()[0] for dot in dots] == list(range(10))
    assert [dot.get_xdata()[0] for dot in dots[:2]] == [75, 25]
    assert all(axes.get_xlim()[0] == 0 for axes in costs), "bars begin at 0"


def test_a_cost_that_all_rows_share_is_said_and_not_drawn(tmp_path, figures):
    rows = [
        {"method": m, "acc1": 80, "low": 79, "high": 81, "gflops": g, "seconds": None}
        for m, g in (("none", 2.0), ("a", 1.0), ("b", 1.0))
    ]
    tradeoff(rows, ["none", "A", "B"], panels_of([PANEL]), tmp_path / "a", "Toy", "none")
    (figure,) = figures
    assert len(figure.axes) == 1
    said = " ".join(figure.get_supxlabel().split())
    assert said == "GFLOPs per evaluation: 1.00 in every row but 2.00 in none."


def test_a_cost_that_is_not_known_of_every_row_is_drawn(tmp_path, figures):
    rows = [
        {"method": m, "acc1": 80, "low": 79, "high": 81, "gflops": g, "seconds": None}
        for m, g in (("none", 2.0), ("a", 1.0), ("b", None))
    ]
    tradeoff(rows, ["none", "A", "B"], panels_of([PANEL]), tmp_path / "a", "Toy", "none")
    (figure,) = figures
    assert len(figure.axes) == 2 and not figure.get_supxlabel()


def test_values_against_a_setting(tmp_path, figures):
    rows = [Row("none", make(tmp_path, "none", 15).path)]
    for x, right in ((0.0, 12), (1.5, 9)):
        name = f"alpha {x}"
        rows.append(
            Row(name.replace(" ", "_"), make(tmp_path, f"a{right}", right).path, series="A")
        )
        rows[-1].x = x
    build(Experiment(rows, axis="alpha"), tmp_path / "out")
    (axes,) = figures[0].axes
    assert axes.get_xlabel() == "alpha" and axes.get_ylabel().startswith("Top-1 accuracy")
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["A"].get_xdata()) == [0, 1.5]
    assert list(lines["A"].get_ydata()) == [60, 45]
    values = [list(line.get_ydata()) for line in axes.get_lines()]
    assert [75, 75] in values  # it has no alpha
    assert {text.get_text() for text in axes.texts} == {"none method", "A"}


def test_traces_are_figures_without_a_table(tmp_path, traced):
    rows = []
    for name in ("tome", "lgtm"):
        run = Run.create(tmp_path, f"trace-{name}", {"trace": name}, {})
        frame = traced(images=len(IDS)).assign(image_id=IDS)
        run.append(
            [
                {k: v.tolist() if hasattr(v, "tolist") else v for k, v in row.items()}
                for row in frame.to_dict("records")
            ]
        )
        row = Row(name)
        row.entries["trace"] = Entry(run.path, f"python run.py task=trace compressor={name}")
        rows.append(row)
    figures_of_it = ("maps", "retention")
    maps = {"block": 1, "timestep": 500}
    experiment = Experiment(rows, "tome", tasks=("trace",), figures=figures_of_it, maps=maps)
    assert build(experiment, tmp_path / "out") == ""
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["toy-coherence.png", "toy-maps.png", "toy-power.png"]
