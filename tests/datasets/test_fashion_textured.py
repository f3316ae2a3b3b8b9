"""Textured garments: the script's folder, read as the models take it."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from bigain.datasets import FashionMNIST, FashionTextured
from bigain.errors import BiGainError
from bigain.experiments import configuration
from bigain.experiments.targets import build

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def write(root: Path, side: int = 32) -> np.ndarray:
    """A data set of three images; returns them."""
    images = np.random.default_rng(0).integers(0, 256, (3, side, side), np.uint8)
    header = struct.pack(">4I", 2051, *images.shape)
    (root / IMAGES).write_bytes(gzip.compress(header + images.tobytes()))
    (root / LABELS).write_bytes(gzip.compress(struct.pack(">2I", 2049, 3) + bytes([9, 0, 4])))
    return images


def test_images_fill_the_frame(tmp_path: Path) -> None:
    images = write(tmp_path)
    data = FashionTextured(str(tmp_path))
    assert data.ids() == ["test-00000", "test-00001", "test-00002"]
    assert [data.labels(i) for i in range(3)] == [(9,), (0,), (4,)]
    assert data[1].image.shape == (1, 32, 32)
    wanted = torch.from_numpy(images[1] / 127.5 - 1).float()
    torch.testing.assert_close(data[1].image[0], wanted)


def test_classes_are_those_that_both_models_know(tmp_path: Path) -> None:
    write(tmp_path)
    data = FashionTextured(str(tmp_path))
    assert data.prompts == FashionMNIST.prompts and data.prompt(2) == "a photo of a coat."
    assert data.class_ids == list(range(10)) and data.known_classes == 10


def test_it_is_another_data_set(tmp_path: Path) -> None:
    write(tmp_path)
    identity = FashionTextured(str(tmp_path)).identity()
    assert (identity["name"], identity["split"]) == ("fashion_textured", "test")
    assert str(tmp_path) not in str(identity)


def test_plain_garments_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 28)
    with pytest.raises(BiGainError, match=r"\(28, 28\), not 32x32"):
        FashionTextured(str(tmp_path))


@pytest.mark.parametrize("model", ["dit_fashion", "sd_fashion"])
def test_a_model_takes_it(configure, job, tmp_path: Path, model: str) -> None:
    write(tmp_path)
    chosen = [f"model={model}", "dataset=fashion_textured"]
    cfg = configure([*chosen, f"dataset.root={tmp_path}"])
    configuration.check(cfg)
    assert build(cfg, "dataset").identity()["name"] == cfg.dataset.name
    with pytest.raises(BiGainError, match=r"prepare_fashion_textured\.py"):
        job([*chosen, f"dataset.root={tmp_path / 'absent'}"])
