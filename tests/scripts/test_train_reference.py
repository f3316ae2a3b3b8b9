"""The reference model's training: exact resumption after SIGKILL, and the folder it leaves."""

import gzip
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bigain.backbones import DiT
from scripts.train_reference import orthogonalise

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_reference.py"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """160 random images in the data set's own format."""
    folder = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (160, 28, 28), dtype=np.uint8)
    labels = np.arange(160, dtype=np.uint8) % 10
    for name, magic, array in (
        ("train-images-idx3-ubyte", 2051, images),
        ("train-labels-idx1-ubyte", 2049, labels),
    ):
        header = np.array([magic, *array.shape], ">i4").tobytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes()))
    return folder


def command(data: Path, out: Path) -> list[str]:
    small = ["model.layers=1", "model.heads=1", "model.head_dim=16", "held_out=64"]
    steps = ["images=480", "batch_size=8", "warmup_images=80", "save_every=1", "log_every=20"]
    places = [f"data={data}", f"output={out}/model", f"checkpoints={out}/state", "device=cpu"]
    return [sys.executable, str(SCRIPT), *small, *steps, *places]


def test_a_killed_training_ends_with_the_same_weights(data, tmp_path):
    subprocess.run(command(data, tmp_path / "whole"), check=True, capture_output=True)
    process = subprocess.Popen(command(data, tmp_path / "killed"), stderr=subprocess.DEVNULL)
    latest = tmp_path / "killed" / "state" / "latest.pt"
    while not latest.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists(), "it ended before it could be killed"
    subprocess.run(command(data, tmp_path / "killed"), check=True, capture_output=True)
    whole, killed = (load_file(tmp_path / run / "model" / WEIGHTS) for run in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    facts = json.loads((tmp_path / "killed" / "model" / "training.json").read_text())
    assert facts["steps"] == 60 and facts["images"] == 480
    assert (tmp_path / "killed" / "model" / "loss.png").stat().st_size > 1000
    backbone = DiT(str(tmp_path / "killed" / "model")).load(torch.device("cpu"), torch.float32)
    t = torch.tensor([500])
    assert backbone.predict_noise(torch.zeros(1, 1, 32, 32), t, t * 0).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_orthogonalise(shape):
    draws = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(orthogonalise(draws))
    assert singular.min() > 0.6 and singular.max() < 1.3
