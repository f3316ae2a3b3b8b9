"""Every data set's config, on a small stand-in of its data."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from bigain.experiments import configuration
from bigain.experiments.targets import build
from tests import tiny_data

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
STAND_INS: dict[str, Callable[[Path], Path]] = {
    "pets": tiny_data.pets,
    "imagenet1k": lambda root: tiny_data.imagenet(root, per_class=1),
    "imagenet100": lambda root: tiny_data.imagenet(
        root, classes=[row["wnid"] for row in tiny_data.rows("imagenet100")]
    ),
    "coco2017": tiny_data.coco2017,
    "folder": tiny_data.folder,
    **tiny_data.TORCHVISION,
}


def test_every_config_has_a_stand_in() -> None:
    own = {"fashion_mnist", "fashion_textured"}  # not of image files: tests of their own
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {*own, *STAND_INS}


@pytest.mark.parametrize("name", STAND_INS)
def test_a_config_builds_its_data_set(
    configure: Callable[[list[str]], DictConfig],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = STAND_INS[name](tmp_path)
    tiny_data.take_as_published(monkeypatch, name, root)
    cfg = configure([f"dataset={name}", f"dataset.root='{root}'", "model.image_size=16"])
    configuration.check(cfg)
    data = build(cfg, "dataset")
    identity = data.identity()
    assert cfg.dataset.name == name == identity["name"]
    assert identity["size"] == 16
    assert data[0].image.shape == (3, 16, 16)
    if name != "folder":
        assert cfg.dataset.reference == f"{name}-{identity['split']}-16"
    if "imagenet" in name:  # a subset's images are compared with the whole split's
        part = configure([f"dataset={name}", "dataset.subset=1000", "model.image_size=16"])
        assert part.dataset.reference == cfg.dataset.reference
    assert len(data.classes) == len(data.prompts)
    assert len({*data.ids()}) == len(data)
