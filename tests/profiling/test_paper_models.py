"""The paper's models on the paper's data, in small: their own configs, through whole runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from bigain.errors import BiGainError
from bigain.experiments.runner import execute
from bigain.metrics.ranking import average_precision, finalists_first
from bigain.tasks.classify_columns import accuracy_row
from bigain.tasks.columns import Results
from bigain.tasks.generate import folder as images_of
from bigain.utils.images import open_folder
from tests import tiny_data, tiny_pipelines

DATASETS = ("pets", "imagenet1k", "imagenet100", "coco2017", "folder")
OF_IMAGENET = ("imagenet1k", "imagenet100")
MODELS = {
    "sd2": {},
    "sd15": {},
    "sd21": {"prediction_type": "v_prediction"},
    "dit_xl2_256": {},
    "dit_xl2_512": {},
}
CLASSES = {"pets": 37, "imagenet1k": 1000, "imagenet100": 100, "coco2017": 80, "folder": 2}
PROTOCOL = ["task.samples=[1,2]", "task.keep=[2,1]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    imagenet = tiny_data.imagenet(root / "imagenet")
    return {
        "pets": tiny_data.pets(root / "pets"),
        "imagenet1k": imagenet,
        "imagenet100": imagenet,
        "coco2017": tiny_data.coco2017(root / "coco2017"),
        "folder": tiny_data.folder(root / "folder"),
    }


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        name: (tiny_pipelines.stable_diffusion if name[:2] == "sd" else tiny_pipelines.dit)(
            root / name, **settings
        )
        for name, settings in MODELS.items()
    }


@pytest.fixture
def run(configure, data, models, tmp_path):
    def go(model, dataset, *more):
        where = [f"model.path={models[model]}", "model.image_size=16", f"results={tmp_path}"]
        chosen = [f"model={model}", f"dataset={dataset}", f"dataset.root={data[dataset]}"]
        return execute(configure([*chosen, *where, "limit=2", *more]))

    return go


PAIRS = [(m, d) for m in MODELS for d in DATASETS if m[:2] == "sd" or d in OF_IMAGENET]


@pytest.mark.parametrize(("model", "dataset"), PAIRS)
def test_classification(run, model, dataset):
    few = ["limit=1", "batch_size=251"] if dataset == "imagenet1k" else []
    found = run(model, dataset, "task=classify", "compressor=lgtm", "blocks=all", *PROTOCOL, *few)
    rows = found.rows()
    assert len(rows) == (1 if few else 2)
    assert all(len(errors) == CLASSES[dataset] for errors in rows["errors"])
    assert np.isfinite(np.stack(list(rows["errors"]))).all()
    assert set(rows["samples"].map(sum)) == {CLASSES[dataset] + 2}
    assert all(0 <= label < CLASSES[dataset] for labels in rows["labels"] for label in labels)


@pytest.mark.parametrize(("model", "dataset"), PAIRS)
def test_generation(run, model, dataset):
    settings = ["task=generate", "features=none", "task.steps=2", "compressor=iekvd", "blocks=all"]
    found = run(model, dataset, *settings)
    images = open_folder(images_of(found))
    assert len(images) == 2 and images.size == (16, 16)
    assert next(iter(images)).std() > 0
    assert images.prompts == tuple(found.rows()["prompt"])
    assert found.rows()["evaluations"].tolist() == [4, 4]  # guided by the model's own default


@pytest.mark.parametrize("dataset", ["pets", "coco2017", "folder", "fashion_mnist"])
@pytest.mark.parametrize("task", ["classify", "generate"])
def test_a_dit_refuses_classes_it_does_not_know(configure, models, data, tmp_path, dataset, task):
    root = [f"dataset.root={data[dataset]}"] if dataset in data else []
    chosen = ["model=dit_xl2_256", f"model.path={models['dit_xl2_256']}", "model.image_size=16"]
    more = [f"dataset={dataset}", *root, f"results={tmp_path}", "limit=2", "features=none"]
    with pytest.raises(BiGainError, match="knows 1000 classes by number"):
        execute(configure([*chosen, *more, f"task={task}"]))


def test_images_of_several_labels_are_ranked(run, capsys):
    found = run("sd2", "coco2017", "compressor=none", *PROTOCOL, "limit=5")
    rows = found.rows()
    assert sorted(map(len, rows["labels"])) == [2] * 5  # the image without objects is left out
    row = accuracy_row("x", rows)
    ranking = finalists_first(np.stack(list(rows["errors"])), np.stack(list(rows["samples"])))
    assert (ranking[:, 0] == rows["prediction"]).all()
    assert row["map"] == pytest.approx(100 * average_precision(ranking, rows["labels"]).mean())
    assert row["map_official"] is not None
    kept = Results.of(found, rows, None, ())
    assert kept.unlabelled == 1 and Results.of(found, rows[:4], None, ()).unlabelled is None
    assert "mAP" in capsys.readouterr().out


def test_captions_are_drawn(run):
    found = run("sd2", "coco2017", "task=generate", "features=none", "task.steps=1", "limit=6")
    rows = found.rows()
    assert all(prompt.startswith("Caption 1 of image") for prompt in rows["prompt"])
    assert (rows["label"] == -1).sum() == 1


def test_the_files_of_a_subset_are_written_beside_its_results(run):
    found = run("sd2", "imagenet100", "dataset.subset=100", *PROTOCOL)
    files = json.loads((found.path / "files.json").read_text())["files"]
    assert len(files) == 100 and all(f.endswith(".JPEG") for f in files)
    whole = run("sd2", "imagenet100", *PROTOCOL)
    assert whole.path != found.path and not (whole.path / "files.json").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(run, dtype):
    # a method whose decisions do not hang on rounding
    more = ["compressor=iekvd", "blocks=all", *PROTOCOL]
    half = run("sd2", "pets", *more, f"dtype={dtype}").rows()
    whole = run("sd2", "pets", *more).rows()
    a, b = (np.stack(list(frame["trials"])) for frame in (half, whole))
    assert 0 < np.nanmax(np.abs(a - b)) < 0.02  # of errors about 1, where both tried the class


def test_another_size_says_what_to_set(run):
    with pytest.raises(BiGainError, match=r"model\.image_size=16"):
        run("sd2", "pets", "model.image_size=32", *PROTOCOL)


def test_missing_data_say_how_to_get_them(configure, models):
    with pytest.raises(BiGainError, match=r"scripts/prepare_pets\.py"):
        execute(
            configure(
                ["model=sd2", f"model.path={models['sd2']}", "dataset=pets", "dataset.root=nowhere"]
            )
        )
