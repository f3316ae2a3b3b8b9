"""Training of the reference models: exact resumption after SIGKILL, and the folder it leaves."""

import csv
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from safetensors.torch import load_file, save_file

from bigain.backbones import DiT, StableDiffusion, StableDiffusion3
from bigain.datasets import FashionMNIST
from bigain.errors import BiGainError
from bigain.features.fashion import FashionFeatures
from bigain.training.draws import shift
from bigain.training.loop import Trainer
from bigain.training.muon import Muon, orthogonalise
from scripts.train_reference import main

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "scripts" / "train_reference.py"
CONFIGS = REPOSITORY / "configs"
AUTOENCODER = REPOSITORY / "assets" / "sd_fashion" / "vae"
CPU = torch.device("cpu")
SMALL = {
    "dit_fashion": ["model.layers=1", "model.heads=1", "model.head_dim=16"],
    "fashion_features": ["model.stem=2", "model.middle=4", "model.inner=4"],
    "sd_fashion_vae": ["model.channels=[4,8]"],
    "sd_fashion": [
        "model={channels:[8,8],heads:[1,1],layers:1,groups:4}",
        "text={width:8,heads:1,layers:1}",
        f"autoencoder={AUTOENCODER}",
    ],
    "sd3_fashion": [
        "model={layers:1,heads:1,head_dim:16}",
        "text={width:8,heads:1,layers:1}",
        f"autoencoder={AUTOENCODER}",
    ],
}
WEIGHTS = {
    "dit_fashion": "transformer/diffusion_pytorch_model.safetensors",
    "fashion_features": "model.safetensors",
    "sd_fashion_vae": "diffusion_pytorch_model.safetensors",
    "sd_fashion": "unet/diffusion_pytorch_model.safetensors",
    "sd3_fashion": "transformer/diffusion_pytorch_model.safetensors",
}
OTHER_MODEL = {
    "dit_fashion": "model.layers=2",
    "fashion_features": "model.stem=4",
    "sd_fashion_vae": "model.channels=[4,4]",
    "sd_fashion": "text.width=16",
    "sd3_fashion": "model.layers=2",
}
STEPS = ["images=240", "batch_size=8", "warmup_images=80", "held_out=64"]
# rows and checkpoints fall on different steps, so a kill can come between them
EVERY = ["log_every=7", "save_every=4"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that are killed: the number of threads changes the rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """160 random images per split in the data set's own format."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    labels = np.arange(160, dtype=np.uint8) % 10
    for split in ("train", "t10k"):
        images = draw.integers(0, 256, (160, 28, 28), dtype=np.uint8)
        for name, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
            header = np.array([magic, *array.shape], ">i4").tobytes()
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(
                gzip.compress(header + array.tobytes())
            )
    return folder


def overrides(reference: str, data: Path, out: Path, *more: str) -> list[str]:
    places = [f"data={data}", f"output={out}/model", f"checkpoints={out}/state", "device=cpu"]
    return [f"reference={reference}", *SMALL[reference], *STEPS, *EVERY, *places, *more]


def trainer(reference: str, data: Path, out: Path, *more: str) -> Trainer:
    with initialize_config_dir(str(CONFIGS), version_base=None):
        cfg = compose("train_reference", overrides(reference, data, out, *more))
    return Trainer(cfg, get_class(cfg.recipe)(cfg))


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPT), *arguments]


def log(out: Path) -> list[dict[str, str]]:
    """The log's rows, less the seconds."""
    with (out / "state" / "log.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same(reference: str, expected: Path, found: Path) -> None:
    """The same weights, log and facts, but for the time."""
    weights, others = (load_file(o / "model" / WEIGHTS[reference]) for o in (expected, found))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert log(found) == log(expected)
    facts, other_facts = (
        json.loads((o / "model" / "training.json").read_text()) | {"minutes": None}
        for o in (expected, found)
    )
    assert other_facts == facts


@pytest.fixture(scope="module", params=list(SMALL))
def trained(request, data, tmp_path_factory) -> tuple[str, Path]:
    """A reference, and the folder of its uninterrupted training."""
    out = tmp_path_factory.mktemp(request.param)
    trainer(request.param, data, out).run()
    return request.param, out


def test_the_log_and_the_facts_count_right(trained):
    _, whole = trained
    assert [int(row["step"]) for row in log(whole)] == [*range(7, 30, 7), 30]
    facts = json.loads((whole / "model" / "training.json").read_text())
    assert facts["steps"] == 30 and facts["images"] == 240
    assert (whole / "model" / "loss.png").stat().st_size > 1000


@pytest.mark.parametrize("step", [0, 15])  # step 14 ends a row, 12 and 16 a checkpoint
def test_a_stopped_training_ends_as_the_whole_one(trained, data, tmp_path, step, monkeypatch):
    reference, whole = trained
    first = trainer(reference, data, tmp_path)
    batch = first.recipe.batch

    def stop(at: int) -> tuple[torch.Tensor, ...]:
        if at == step:
            raise KeyboardInterrupt
        return batch(at)

    monkeypatch.setattr(first.recipe, "batch", stop)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    assert not (tmp_path / "model").exists()
    torch.rand(1)  # nothing depends on torch's own generator
    trainer(reference, data, tmp_path).run()
    assert_same(reference, whole, tmp_path)


def test_a_killed_training_ends_as_the_whole_one(trained, data, tmp_path):
    reference, _ = trained
    line = command(*overrides(reference, data, tmp_path))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(line, stderr=subprocess.DEVNULL, env=environment)
    state = tmp_path / "state"
    while not (state / "latest.pt").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not (tmp_path / "model").exists()
    trainer(reference, data, tmp_path).run()
    assert_same(reference, trained[1], tmp_path)
    assert not list(state.glob(".*tmp*"))


def test_a_finished_training_is_only_exported_again(trained, data, tmp_path):
    """Elsewhere, beside a card; where, and how often to save, may change."""
    reference, whole = trained
    (tmp_path / "README.md").write_text("the card")
    trainer(reference, data, whole, f"output={tmp_path}", "save_every=5").run()
    for name in (WEIGHTS[reference], "loss.png"):
        assert (tmp_path / name).read_bytes() == (whole / "model" / name).read_bytes()
    assert (tmp_path / "README.md").read_text() == "the card"


def test_what_is_exported_loads(trained, data):
    reference, whole = trained
    path = str(whole / "model")
    if reference == "dit_fashion":
        t = torch.tensor([500])
        backbone = DiT(path).load(CPU, torch.float32)
        assert backbone.predict(torch.zeros(1, 1, 32, 32), t, t * 0).shape == (1, 1, 32, 32)
    elif reference == "sd_fashion":
        t = torch.tensor([500])
        pipeline = StableDiffusion(path).load(CPU, torch.float32)
        x, prompt = torch.zeros(1, 4, 16, 16), pipeline.texts.embed(["any text"])
        assert pipeline.predict(x, t, prompt).shape == x.shape
    elif reference == "sd3_fashion":
        assert_the_saved_transformer_predicts_as_the_trained_one(whole, data)
    elif reference == "sd_fashion_vae":
        assert_latents_are_centred(Path(path), data)
    else:
        features = FashionFeatures(path).load(CPU)(torch.zeros(2, 1, 32, 32))
        assert features.logits.shape == (2, 10)
        accuracy = json.loads((whole / "model" / "training.json").read_text())["test_accuracy"]
        assert accuracy["n"] == 160 and accuracy["low"] <= accuracy["value"] <= accuracy["high"]


@torch.no_grad()
def assert_the_saved_transformer_predicts_as_the_trained_one(whole: Path, data: Path) -> None:
    """The backbone reads prompts and noise levels as training did, but for float16 weights."""
    backbone = StableDiffusion3(str(whole / "model"), text_length=16).load(CPU, torch.float32)
    again = trainer("sd3_fashion", data, whole)
    again._resume()
    g = torch.Generator().manual_seed(0)
    x, prompts = torch.randn(2, 4, 16, 16, generator=g), ["a photo of a bag.", "crème brûlée"]
    found = backbone.predict(x, torch.tensor([3.0, 700.0]), backbone.texts.embed(prompts))
    tokens = again.recipe._tokens(prompts)
    trained = again.ema.module(x, torch.tensor([3.0, 700.0]), tokens)
    assert (found - trained).norm() < 0.01 * trained.norm()
    other = again.ema.module(x.flip(0), torch.tensor([3.0, 700.0]), tokens)
    assert (found - other).norm() > 0.1 * trained.norm()


@torch.no_grad()
def assert_latents_are_centred(folder: Path, data: Path) -> None:
    """The latents of the training images are centred, and images are rebuilt as before centring."""
    images, _ = FashionMNIST(str(data), "train").tensors()
    vae = AutoencoderKL.from_pretrained(folder)
    mean = vae.encode(images[:96]).latent_dist.mean
    rebuilt = vae.decode(mean).sample
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    scaled = mean * vae.config.scaling_factor
    torch.testing.assert_close(scaled.square().mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
    moved = torch.tensor(json.loads((folder / "training.json").read_text())["latent_mean"])
    vae.quant_conv.bias[:4] += moved
    vae.post_quant_conv.bias -= vae.post_quant_conv.weight[:, :, 0, 0] @ moved
    as_trained = vae.decode(vae.encode(images[:96]).latent_dist.mean).sample
    torch.testing.assert_close(rebuilt, as_trained, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    ["batch_size=4", "images=960", "seed=1", "learning_rate=1", "ema_decay=0.5", "precision=other"],
)
def test_other_settings_do_not_resume(trained, data, change):
    reference, whole = trained
    # precision=auto depends on the processor: the one that was not chosen
    chosen = json.loads((whole / "model" / "training.json").read_text())["precision"]
    change = change.replace("other", {"bf16": "fp32", "fp32": "bf16"}[chosen])
    key = change.split("=")[0]
    with pytest.raises(BiGainError, match=rf"latest\.pt was trained with {key}="):
        trainer(reference, data, whole, change).run()


def test_another_model_does_not_resume(trained, data):
    reference, whole = trained
    change = OTHER_MODEL[reference]
    with pytest.raises(BiGainError, match=change.split("=")[0]):
        trainer(reference, data, whole, change).run()


def test_other_data_do_not_resume(trained, data, tmp_path):
    reference, whole = trained
    for file in data.iterdir():
        raw = bytearray(gzip.decompress(file.read_bytes()))
        raw[-1] ^= 1
        (tmp_path / file.name).write_bytes(gzip.compress(raw))
    with pytest.raises(BiGainError, match=r"data\.sha256"):
        trainer(reference, tmp_path, whole).run()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK"])
def test_a_damaged_checkpoint_is_named(data, tmp_path, content):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "latest.pt").write_bytes(content)
    with pytest.raises(BiGainError, match=r"latest\.pt is no checkpoint .*remove it"):
        trainer("fashion_features", data, tmp_path).run()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("held_out=0", r"held_out must lie in 1\.\.159"),
        ("held_out=160", r"held_out must lie in 1\.\.159"),
        ("batch_size=97", r"batch_size must lie in 1\.\.96"),
        ("images=7", "images must be at least"),
        ("precision=fp16", "precision must be one of"),
    ],
)
def test_what_cannot_be_trained_is_refused(data, tmp_path, change, words):
    with pytest.raises(BiGainError, match=words):
        trainer("fashion_features", data, tmp_path, change)
    assert not (tmp_path / "state").exists()


def test_the_text_to_image_model_needs_its_autoencoder(data, tmp_path):
    with pytest.raises(BiGainError, match=r"nowhere holds no .*reference=sd_fashion_vae"):
        trainer("sd_fashion", data, tmp_path, "autoencoder=nowhere")


def test_another_autoencoder_does_not_resume(data, tmp_path):
    trainer("sd_fashion", data, tmp_path, "images=16", "save_every=1").run()
    shutil.copytree(AUTOENCODER, tmp_path / "vae")
    weights = tmp_path / "vae" / WEIGHTS["sd_fashion_vae"]
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights)
    with pytest.raises(BiGainError, match=r"data\.autoencoder"):
        trainer("sd_fashion", data, tmp_path, "images=16", f"autoencoder={tmp_path}/vae").run()


def test_errors_are_one_line(monkeypatch):
    done = subprocess.run(command("imges=5"), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "imges" in done.stderr

    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "data=nowhere"])
    with pytest.raises(SystemExit, match=r"^error: [^\n]*prepare_fashion_mnist\.py[^\n]*$"):
        main()


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_orthogonalise(shape):
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalise(draws))
    assert singular.min() > 0.6 and singular.max() < 1.3


def test_muon_takes_a_kernel_as_a_matrix():
    g = torch.Generator().manual_seed(0)
    kernel, gradient = (torch.randn(8, 3, 3, 3, generator=g) for _ in range(2))
    steps = []
    for shape in ((8, 3, 3, 3), (8, 27)):
        p = torch.nn.Parameter(kernel.view(shape).clone())
        p.grad = gradient.view(shape)
        Muon([p], lr=0.1).step()
        steps.append(p.detach().flatten())
    torch.testing.assert_close(*steps)


def test_shifts_move_each_image_by_itself():
    x = torch.arange(4 * 36).view(4, 1, 6, 6)
    moved = shift(x, 1, torch.Generator().manual_seed(0))
    by = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    found = [
        [torch.equal(x[n].roll(s, (1, 2)), moved[n]) for s in by].index(True) for n in range(4)
    ]
    assert len(set(found)) > 1
