"""Generated images: keyed, resumable, written whole."""

import json
import random
import time

import numpy as np
import pytest
import torch
from PIL import Image

from bigain import compress
from bigain.backbones import SAMPLERS, DiT
from bigain.compression.sharing import Sharing
from bigain.compressors import IEKVD, ToMe
from bigain.compressors.iekvd import LinearAlpha
from bigain.datasets.fashion_mnist import CLASSES
from bigain.errors import BiGainError
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.store.runs import Run
from bigain.tasks.generate import Generate, files, folder, generate
from bigain.utils.images import FINGERPRINT, open_folder, read_image
from bigain.utils.paths import REPOSITORY
from tests.runs import start

COMPRESSORS = sorted(p.stem for p in (REPOSITORY / "configs" / "compressor").glob("*.yaml"))


@pytest.fixture
def overrides(small_dit, tmp_path):
    return [
        "task=generate",
        "task.steps=4",
        "features=none",
        f"model.path={small_dit}",
        "model.guidance=1.5",
        "blocks=all",
        f"results={tmp_path}",
        "limit=12",
    ]


def pixels(run, ids=None):
    ids = run.rows()["image_id"] if ids is None else ids
    return np.stack([read_image(path) for path in files(run, ids)]).astype(int)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_an_image_is_the_same_in_any_batch_and_company(overrides, compressor, run, tmp_path):
    """Rounding may move a value across the border of two of the 256 levels."""
    chosen = [*overrides, f"compressor={compressor}"]
    whole = pixels(run(chosen))
    assert whole.std() > 1 and len(np.unique(whole, axis=0)) == 12
    for size in (1, 7):
        other = run([*chosen, f"results={tmp_path}/b{size}", f"batch_size={size}"])
        assert np.abs(pixels(other) - whole).max() <= 1
    few = run([*chosen, f"results={tmp_path}/few", "limit=5"])
    assert np.abs(pixels(few) - whole[:5]).max() <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_so_it_is_with_every_sampler(overrides, sampler, run, tmp_path):
    chosen = [*overrides, f"task.sampler={sampler}", "compressor=tome"]
    whole = pixels(run(chosen))
    alone = run([*chosen, f"results={tmp_path}/alone", "batch_size=1", "limit=4"])
    assert np.abs(pixels(alone) - whole[:4]).max() <= 1


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_order_and_shard_change_nothing(small_dit, sampler):
    """Every third image, backwards, with a compressor that draws random numbers."""
    backbone = DiT(str(small_dit)).load(torch.device("cpu"), torch.float32)
    protocol = Generate(sampler, steps=4, guidance=1.5)
    ids, classes = [f"{i:06d}" for i in range(9)], torch.arange(9)
    with (
        compress(backbone.denoiser, ToMe(0.5), blocks="all") as attachment,
        Sharing(backbone.denoiser, attachment) as sharing,
    ):
        whole, _ = generate(backbone, protocol, classes, ids, 0, sharing)
        shard, _ = generate(backbone, protocol, classes[[8, 5, 2]], ids[::-3], 0, sharing)
    wanted = np.stack([whole[8], whole[5], whole[2]]).astype(int)
    assert np.abs(np.stack(shard) - wanted).max() <= 1


def test_another_seed_draws_other_images(overrides, run):
    first, second = run(overrides), run([*overrides, "seed=1"])
    assert first.path != second.path
    assert np.abs(pixels(first) - pixels(second)).mean() > 1


def test_images_and_rows_say_what_they_are(overrides, run, configure):
    found = run(overrides)
    rows = found.rows()
    dataset = Job(settings_of(configure(overrides))).dataset
    assert rows["label"].tolist() == [dataset.labels(i)[0] for i in range(12)]
    assert rows["evaluations"].tolist() == [8] * 12
    images = open_folder(folder(found))
    assert images.fingerprint == found.fingerprint and images.size == (32, 32)
    assert images.prompts == tuple(rows["prompt"])
    assert dataset.prompts[rows["label"][0]] == dataset.prompt(0) == images.prompts[0]
    with Image.open(images.paths[3]) as image:
        assert image.text["bigain.image_id"] == "000003"
    # 12 images in two lines of eight, each doubled, with gaps of 4
    assert Image.open(found.path / "sheet.png").size == (8 * 68 + 4, 2 * 68 + 4)
    cost = found.read_record("cost")
    assert cost["gflops"] > 0


def test_past_the_data_sets_end_its_classes_come_again(configure):
    job = Job(settings_of(configure(["task=generate", "features=none", "limit=10003"])))
    assert len(job.ids) == 10003
    assert job.ids[-1] == "010002"


def test_classes_are_balanced_in_the_whole_test_split(configure):
    job = Job(settings_of(configure(["task=generate", "features=none"])))
    labels = [job.dataset.labels(i)[0] for i in range(len(job.ids))]
    assert np.bincount(labels).tolist() == [1000] * len(CLASSES)


@pytest.mark.parametrize(
    "change", ["task.steps=5", "task.guidance=2", "task.sampler=euler", "task.spacing=linspace"]
)
def test_what_changes_images_changes_the_run(overrides, change, configure):
    paths = {Job(settings_of(configure(o))).run_path for o in (overrides, [*overrides, change])}
    assert len(paths) == 2


def test_how_images_are_scored_does_not(overrides, configure):
    scored = [o for o in overrides if o != "features=none"]
    paths = {
        Job(settings_of(configure(o))).run_path
        for o in (overrides, [*scored, "evaluation.replicates=9"])
    }
    assert len(paths) == 1


@pytest.mark.parametrize(
    ("model", "task", "alpha"),
    [
        ("sd_fashion", "generate", LinearAlpha(noise=0.8, clean=1.2)),
        ("dit_fashion", "generate", 0.9),
        ("sd_fashion", "classify", 0.9),
        ("dit_fashion", "classify", 0.9),
    ],
)
def test_alpha_follows_the_task_and_the_model(configure, model, task, alpha):
    """The published code draws with a schedule on the U-Net alone."""

    def chosen(*overrides):
        settings = settings_of(configure([f"model={model}", f"task={task}", *overrides]))
        return Job(settings).compressor

    assert chosen("compressor=iekvd") == IEKVD(2, alpha)
    assert chosen("compressor=lgtm_iekvd").parts[1] == IEKVD(2, alpha)
    assert chosen("compressor=iekvd", "compressor.alpha=1.1") == IEKVD(2, 1.1)


def test_a_lost_image_is_drawn_again(overrides, run, capsys):
    found = run(overrides)
    before = pixels(found)
    lost = files(found, ["000003"])[0]
    lost.unlink()
    capsys.readouterr()
    again = run(overrides)
    assert "nothing to compute" not in capsys.readouterr().out
    assert len(again.rows()) == 12
    assert np.abs(pixels(again) - before).max() <= 1
    run(overrides)
    assert "nothing to compute" in capsys.readouterr().out


def test_a_corrupt_image_is_named(overrides, run):
    found = run(overrides)
    corrupt = files(found, ["000003"])[0]
    corrupt.write_bytes(corrupt.read_bytes()[:-30])
    with pytest.raises(BiGainError, match=r"000003\.png cannot be decoded"):
        run(overrides)


def test_more_images_extend_the_run(overrides, run):
    first = run([*overrides, "limit=5"])
    before = pixels(first)
    second = run(overrides)
    assert second.path == first.path and len(second.rows()) == 12
    assert np.array_equal(pixels(second)[:5], before)


def test_weights_that_give_nan_are_refused(overrides, save_dit, tmp_path, run):
    from safetensors.torch import load_file, save_file

    broken = save_dit(tmp_path / "broken")
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(path).items()}, path)
    with pytest.raises(BiGainError, match="NaN"):
        run([*overrides, f"model.path={broken}"])


@pytest.mark.slow
def test_sigkill_loses_at_most_the_batch_in_flight(overrides, tmp_path, run, configure):
    chosen = [*overrides, "limit=120", "batch_size=8"]  # 4 images a batch, 30 batches
    whole = run([*chosen, f"results={tmp_path}/whole"])
    path = Job(settings_of(configure(chosen))).run_path
    draw = random.Random(0)
    kept = 0
    for _ in range(5):
        process = start(*chosen, folder=tmp_path, output=tmp_path / "output")
        wanted = len(list(path.glob("images/*.png"))) + draw.randint(1, 12)
        while len(list(path.glob("images/*.png"))) < wanted:
            assert process.is_alive(), "it ended before it could be killed"
            time.sleep(0.001)
        process.kill()
        process.join()
        finished = Run.open(path).finished()
        assert len(finished) >= kept, "a finished image was lost"
        kept = len(finished)
        for image in path.glob("images/*.png"):  # no name without a whole image
            assert read_image(image).shape == (32, 32, 1)
        assert len(list(path.glob("images/*.png"))) - kept <= 4
    assert 0 < kept < 120
    resumed = run(chosen)
    assert np.abs(pixels(resumed) - pixels(whole)).max() <= 1
    assert {json.dumps(r) for r in resumed.rows()["image_id"]} == {
        json.dumps(r) for r in whole.rows()["image_id"]
    }
    assert FINGERPRINT in Image.open(files(resumed, ["000000"])[0]).text
