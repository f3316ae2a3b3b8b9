"""Scores of runs and folders, from a configuration."""

import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bigain.errors import BiGainError
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.experiments.scoring_settings import metric_kinds, scoring_of
from bigain.metrics.frechet import FID, SpatialFID
from bigain.metrics.image_metric import Generated, ImageMetric, MetricColumn, Real, Value
from bigain.metrics.inception_score import InceptionScoreMetric
from bigain.metrics.kernel import KID
from bigain.metrics.manifold import PrecisionRecallMetric
from bigain.reporting.tables import Section
from bigain.store.run_images import files, folder
from bigain.tasks.generate_columns import generation_columns, generation_row, score_keys
from bigain.utils.images import write_png
from bigain.utils.paths import REPOSITORY
from tests import tiny_data

FEW = ["evaluation.allow_few=true", "evaluation.replicates=5"]


@pytest.fixture
def reference(tmp_path):
    """A small one, as the embedded default's takes seconds to compare with."""
    return f"evaluation.reference={paint(tmp_path / 'real', 80, start=7)}"


@pytest.fixture
def overrides(small_dit, tmp_path):
    return [
        "task=generate",
        "task.steps=2",
        f"model.path={small_dit}",
        f"results={tmp_path}/results",
        "limit=12",
    ]


@pytest.fixture
def evaluate(run, job, overrides, tmp_path):
    """Scores of a folder, read back from where they are kept."""

    def scored(path, *more):
        here = [f"task.path={path}", f"results={tmp_path}/results", *more]
        if found := run(["task=evaluate", *here]):
            return job([*overrides, *more]).scoring.read(found, 12)
        place = tmp_path / "results" / "scores"
        newest = max(place.glob("*scores-*.json"), key=lambda p: p.stat().st_mtime_ns)
        return json.loads(newest.read_text())

    return scored


def paint(path, count=12, side=32, start=0, about=None):
    """Random grey images."""
    path.mkdir(exist_ok=True)
    draws = np.random.default_rng(start).integers(0, 256, (count, side, side), np.uint8)
    for i, image in enumerate(draws):
        write_png(path / f"{i:03d}.png", image, about or {})
    return path


def scores_of(run):
    """The records of every count of images, merged."""
    found: dict[int, dict] = {}
    for name in run.records("scores-"):
        record = run.read_record(name)
        found.setdefault(record["n"], {}).update(record)
    return list(found.values())


def test_a_run_is_scored_against_its_data_sets_statistics(overrides, run):
    (scores,) = scores_of(run([*overrides, *FEW]))
    assert scores["reference_name"] == "fashion_mnist-train-fashion"
    assert scores["reference_n"] == 60000


def test_a_run_is_scored_once_at_its_end(overrides, run, reference, capsys):
    overrides = [*overrides, reference]
    found = run([*overrides, *FEW])
    (scores,) = scores_of(found)
    assert scores["n"] == 12 and scores["features"] == "fashion"
    assert scores["reference_name"] == "real" and scores["reference_n"] == 80
    assert scores["fid"] > 1 and len(scores["fid_replicates"]) == 5
    assert f"FID (fashion) {scores['fid']:.2f}" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in found.path.glob("scores-*.json")}
    names = "fid sfid kid precision_recall density_coverage inception_score"
    assert {path.name.split("-")[1] for path in kept} == set(names.split())
    run([*overrides, *FEW])
    assert kept == {path: path.stat().st_mtime_ns for path in found.path.glob("scores-*.json")}
    run([*overrides, *FEW, "limit=9"])  # other images, other scores
    assert sorted(s["n"] for s in scores_of(found)) == [9, 12]


def test_fid_is_compared_with_the_uncompressed_runs(overrides, run, reference, capsys):
    chosen = [*overrides, *FEW, reference]
    run([*chosen, "compressor=lgtm", "blocks=all"])
    assert "FID against uncompressed" not in capsys.readouterr().out
    (plain,) = scores_of(run(chosen))
    (merged,) = scores_of(run([*chosen, "compressor=lgtm", "blocks=all"]))
    said = f"FID against uncompressed: {merged['fid'] - plain['fid']:+.2f} ["
    assert said in capsys.readouterr().out


def test_too_few_images_are_drawn_but_not_scored(overrides, run, capsys):
    found = run(overrides)
    assert "not scored: 12 images are too few" in capsys.readouterr().out
    assert not scores_of(found) and len(files(found, found.rows()["image_id"])) == 12
    with pytest.raises(BiGainError, match=r"fid 65.* evaluation\.allow_few=true"):
        run(["task=evaluate", f"task.path={found.path}"])


def test_a_run_and_its_folder_score_alike(overrides, run, evaluate, reference):
    found = run([*overrides, "features=none"])
    whole = evaluate(found.path, *FEW, reference)
    assert evaluate(folder(found), *FEW, reference) == whole
    (scores,) = scores_of(found)
    assert {key: whole[key] for key in scores} == scores
    batched = evaluate(folder(found), *FEW, reference, "batch_size=5")
    assert batched["fid"] == pytest.approx(whole["fid"])


def test_two_folders(evaluate, tmp_path):
    ours, same = paint(tmp_path / "ours"), paint(tmp_path / "same")
    other = paint(tmp_path / "other", 20, start=1)
    assert evaluate(ours, f"evaluation.reference={same}", *FEW)["fid"] == pytest.approx(0, abs=1e-6)
    scores = evaluate(ours, f"evaluation.reference={other}", *FEW)
    assert scores["fid"] > 0.01
    assert (scores["n"], scores["reference_n"], scores["reference_name"]) == (12, 20, "other")


def test_a_reference_file(evaluate, tmp_path):
    statistics = REPOSITORY / "assets" / "statistics" / "fashion_mnist-train-fashion.npz"
    scores = evaluate(paint(tmp_path / "ours"), f"evaluation.reference={statistics}", *FEW)
    assert scores["reference_name"] == "fashion_mnist-train-fashion"


def test_images_of_another_run_are_refused(overrides, run):
    found, other = run([*overrides, "features=none"]), run([*overrides, "seed=1", "features=none"])
    for path in files(other, other.rows()["image_id"]):
        shutil.copy(path, folder(found) / path.name)
    with pytest.raises(BiGainError, match=f"run {other.fingerprint}, not of its own"):
        run(["task=evaluate", f"task.path={found.path}", *FEW])
    shutil.copy(files(run([*overrides, "seed=2", "features=none"]), ["000004"])[0], folder(found))
    with pytest.raises(BiGainError, match="mixes images of different origin"):
        run(["task=evaluate", f"task.path={folder(found)}", *FEW])


def test_other_files_beside_a_runs_images_change_nothing(overrides, run, reference):
    """A copy that a file manager leaves comes before the images after it in the alphabet."""
    scored = [*overrides, *FEW, reference]
    found = run(scored)
    want = scores_of(found)
    for path in list(found.path.glob("scores-*.json")):
        path.unlink()
    shutil.copy(folder(found) / "000003.png", folder(found) / "000003 (copy).png")
    write_png(folder(found) / "000000a.png", np.zeros((32, 32), np.uint8), {})
    assert scores_of(run(scored)) == want


@pytest.mark.parametrize("change", ["bit", "swap", "pixel"])
def test_changed_images_are_not_scored(overrides, run, reference, change):
    found = run([*overrides, "features=none"])
    first, second = files(found, ["000000", "000001"])
    if change == "bit":
        data = bytearray(first.read_bytes())
        data[len(data) // 2] ^= 1
        first.write_bytes(data)
    elif change == "swap":
        shutil.copy(second, first)
    else:
        with Image.open(first) as image:
            texts, pixels = dict(image.info), np.array(image)
        pixels[0, 0] ^= 1
        chunks = PngInfo()
        for key, text in texts.items():
            chunks.add_text(key, text)
        Image.fromarray(pixels).save(first, pnginfo=chunks)
    with pytest.raises(BiGainError, match=r"000000\.png (cannot be decoded|is image 000001)"):
        run([*overrides, *FEW, reference])


def test_what_cannot_be_scored(run, tmp_path):
    (tmp_path / "empty").mkdir()
    large = paint(tmp_path / "large", side=64)
    corrupt = paint(tmp_path / "corrupt")
    (corrupt / "005.png").write_bytes((corrupt / "005.png").read_bytes()[:-25])
    mixed = paint(tmp_path / "mixed")
    write_png(mixed / "099.png", np.zeros((28, 28), np.uint8), {})
    for path, message in (
        (tmp_path / "absent", "is not a folder"),
        (tmp_path / "empty", "holds no images"),
        (large, "28|32"),
        (corrupt, r"005\.png cannot be decoded"),
        (mixed, "different sizes: 12 of 32x32"),
    ):
        with pytest.raises(BiGainError, match=message) as caught:
            run(["task=evaluate", f"task.path={path}", f"results={tmp_path}", *FEW])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], "task.path to a folder of images or a run of task=generate; there are: none yet"),
        (["features=none"], "needs a feature network"),
        (["+evaluation.replicate=3"], "replicate"),
        (["evaluation.replicates=1"], "from 2"),
        (["task.path=.", "evaluation.reference=absent"], "make_reference_statistics.py"),
        (["task.path=.", "evaluation.reference=/absent.npz"], "/absent.npz not found"),
        (["task.path=.", "evaluation.reference=null"], "names no reference"),
        (["task.path=.", "features.path=/absent"], "/absent"),
    ],
)
def test_refusals(run, change, message, tmp_path):
    with pytest.raises(BiGainError) as caught:
        run(["task=evaluate", f"results={tmp_path}", *change])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_statistics_that_are_missing_are_said_before_anything_is_drawn(overrides, run, tmp_path):
    with pytest.raises(BiGainError, match=r"make_reference_statistics\.py"):
        run([*overrides, "evaluation.reference=absent"])
    assert not (tmp_path / "results" / "runs").exists()


def test_the_record_is_known_without_weights_in_memory(overrides, run, configure, reference):
    found = run([*overrides, *FEW, reference])
    scoring = Job(settings_of(configure([*overrides, *FEW, reference]))).scoring
    names = {scoring.record(metric, 12) for metric in scoring.chosen}
    assert names == {path.stem for path in found.path.glob("scores-*.json")}


@dataclass(frozen=True)
class Brightness(ImageMetric):
    """A metric that did not exist when the runs were scored."""

    name: ClassVar = "brightness"
    values: ClassVar = (Value("brightness", "brightness"),)
    columns: ClassVar = (MetricColumn("Brightness", "brightness"),)

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, float]:
        return {"brightness": float(generated.pooled.mean())}


def test_a_new_metric_is_computed_alone(overrides, run, job, reference, monkeypatch, capsys):
    chosen = [*overrides, *FEW, reference]
    first = run(chosen)
    kept = {path: path.stat().st_mtime_ns for path in first.path.glob("scores-*.json")}
    before = job(chosen).scoring.read(first, 12)
    module = ModuleType("brightness_metric")
    module.Brightness = Brightness
    monkeypatch.setitem(sys.modules, "brightness_metric", module)
    more = [*chosen, "+evaluation.metrics.brightness={_target_: brightness_metric.Brightness}"]
    assert job(more).scoring.read(first, 12) == before | {"brightness": None}
    assert not job(more).scoring.complete(first, 12)

    def refuse(*arguments, **settings):
        raise AssertionError("the others are there")

    for kind in (FID, SpatialFID, KID, PrecisionRecallMetric, InceptionScoreMetric):
        monkeypatch.setattr(kind, "compute", refuse)
    capsys.readouterr()
    run(more)
    assert "nothing to compute" in capsys.readouterr().out
    after = job(more).scoring.read(first, 12)
    assert after == before | {"brightness": after["brightness"]}
    assert after["brightness"] is not None and job(more).scoring.complete(first, 12)
    new = [path for path in first.path.glob("scores-*.json") if path not in kept]
    assert [path.name.split("-")[1] for path in new] == ["brightness"]
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_a_setting_of_one_metric_leaves_the_others_as_they_are(overrides, run, reference):
    chosen = [*overrides, *FEW, reference]
    first = run(chosen)
    names = {path.name for path in first.path.glob("scores-*.json")}
    run([*chosen, "evaluation.coverage_neighbours=4"])
    new = {path.name for path in first.path.glob("scores-*.json")} - names
    assert [name.split("-")[1] for name in new] == ["density_coverage"]


def test_a_new_metric_has_a_column_and_a_missing_score_is_a_dash():
    kinds = [*metric_kinds(), Brightness]
    frame = pd.DataFrame({"evaluations": [2.0], "seconds": [0.5]})
    known: dict[str, Any] = {key: 1.0 for key in score_keys(kinds)} | {"brightness": 0.25}
    known |= {"features": "f", "reference_name": "r", "reference_n": 9}
    lacking = known | {"fid": None, "brightness": None}
    rows = [generation_row("a", kinds, frame, s) for s in (known, lacking)]
    header, *lines = Section("", rows, [generation_columns(rows, kinds)]).texts
    shown = [dict(zip(header, line, strict=True)) for line in lines]
    assert [line["Brightness"] for line in shown] == ["0.250", "–"]
    assert [line["FID (f)"] for line in shown] == ["1.00 [1.00, 1.00]", "–"]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "dataset").glob("*.yaml")))
def test_photographs_are_scored_with_inception_and_small_garments_with_their_own(path, configure):
    chosen = [f"dataset={path.stem}"]
    photographs = "size" in configure(chosen).dataset
    assert configure(chosen).features.name == ("inception" if photographs else "fashion")
    assert configure([*chosen, "features=dinov2"]).features.name == "dinov2"
    assert configure([*chosen, "features=none"]).features.name == "none"


def test_missing_statistics_name_the_command_that_makes_them(configure, tmp_path):
    root = tiny_data.pets(tmp_path / "my pets")
    chosen = ["model=sd2", "dataset=pets", f"dataset.root='{root}'", "task=generate", "limit=3"]
    with pytest.raises(
        BiGainError, match=r"pets-test-512-inception-clean\.npz not found"
    ) as caught:
        scoring_of(configure(chosen))
    command, _, rest = str(caught.value).partition("make it: ")[2].partition("; ")
    assert rest == "or set features=none, which scores nothing"
    python, script, *given = shlex.split(command)
    assert (python, script) == ("python", "scripts/make_reference_statistics.py")
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
        cfg = compose("make_reference_statistics", overrides=given)
    assert (cfg.dataset.root, cfg.dataset.size, cfg.dataset.split) == (str(root), 512, "test")
    assert cfg.features.name == "inception" and cfg.dataset.name == "pets"


def test_the_command_names_the_split_of_the_reference(configure, tmp_path):
    with pytest.raises(
        BiGainError, match=r"dataset=fashion_mnist dataset\.split=train features=inc"
    ):
        scoring_of(configure(["features=inception", f"evaluation.statistics={tmp_path}"]))
