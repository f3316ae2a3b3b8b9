"""Textured garments: keyed by seed and image, in their band, and never over other files."""

import csv
import gzip
import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bigain.datasets import FashionMNIST, FashionTextured
from bigain.datasets.fashion_mnist import SIZE
from bigain.errors import BiGainError
from bigain.preparation.fashion_textured import prepare
from bigain.preparation.texture_kinds import AMPLITUDE, KINDS, WAVES
from bigain.preparation.textures import BAND, SOFT, compose, texture
from scripts import prepare_fashion_textured as script

SHIPPED = Path(__file__).parents[2] / "assets" / "fashion_mnist"
PINNED = (
    "c3007c6ab185185f9016ef0ac5d2c20d9c72629298b0bda7dafc54b3fea5023a"  # of the first 40 images
)


def made(root: Path) -> np.ndarray:
    """The images of a folder, uint8 [N, 32, 32]."""
    images, _ = FashionTextured(str(root)).tensors()
    return ((images[:, 0] + 1) * 127.5).round().byte().numpy()


@pytest.fixture(scope="module")
def garments() -> torch.Tensor:
    images, _ = FashionMNIST(str(SHIPPED)).tensors()
    return ((images[:40, 0] + 1) * 127.5).round().byte()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "textured"
    assert prepare(root, count=40) == 40
    return root


def test_the_pixels_are_pinned(root: Path) -> None:
    """On every platform: changed pixels would invalidate all published runs."""
    assert hashlib.sha256(made(root).tobytes()).hexdigest() == PINNED


def test_an_image_depends_on_seed_and_index_alone(root: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "few", count=7)
    assert (made(tmp_path / "few") == made(root)[:7]).all()
    prepare(tmp_path / "other", seed=1, count=7)
    assert not (made(tmp_path / "other") == made(root)[:7]).all((1, 2)).any()
    later = [texture(0, index).draw(SIZE) for index in (3, 2)]
    assert (later[1] == texture(0, 2).draw(SIZE)).all() and (later[0] != later[1]).any()


def test_garments_stay_and_labels_keep_their_order(root: Path, garments: torch.Tensor) -> None:
    bright = garments.numpy() >= SOFT[1]
    images = made(root)
    assert bright.any((1, 2)).all()
    assert (images[bright] == garments.numpy()[bright]).all()
    plain, data = FashionMNIST(str(SHIPPED)), FashionTextured(str(root))
    assert [data.labels(i) for i in range(40)] == [plain.labels(i) for i in range(40)]
    assert data.ids() == plain.ids()[:40]


def test_textures_reach_the_edge_of_the_frame_and_stay_dark(root: Path) -> None:
    edge = np.ones((SIZE, SIZE), bool)
    edge[2:-2, 2:-2] = False
    border = made(root)[:, edge]
    assert (border.std(1) > 1).all()
    assert border.max() <= math.ceil(255 * AMPLITUDE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_texture_s_energy_lies_in_its_band(kind: str) -> None:
    """A window keeps a frame's cut edges from spreading it, and itself spreads it by 2/SIZE."""
    window = np.outer(*[np.hanning(SIZE)] * 2)
    ring = np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIZE)] * 2))
    inside = (ring > BAND[0] - 2 / SIZE) & (ring < BAND[1] + 2 / SIZE)
    for index in range(20):
        found = texture(0, index, [kind])
        assert found.kind == kind and len(found.frequencies) == WAVES[kind]
        assert (BAND[0] <= found.frequencies).all() and (found.frequencies <= BAND[1]).all()
        drawn = found.draw(SIZE)
        assert np.abs(drawn).max() == pytest.approx(1)
        power = np.abs(np.fft.fft2(window * drawn)) ** 2
        assert power[inside].sum() > 0.99 * power.sum()


def test_kinds_differ_as_they_should() -> None:
    grating, checks = (texture(0, 5, [kind]) for kind in ("grating", "checks"))
    assert grating.angles[0] == checks.angles[0]  # of the same draws
    assert checks.angles[1] - checks.angles[0] == pytest.approx(math.pi / 2)
    assert checks.frequencies[0] == checks.frequencies[1]
    assert not texture(0, 5, ["flat"]).draw(SIZE).any()
    counts = [[texture(0, i).kind for i in range(300)].count(kind) for kind in KINDS]
    assert min(counts) > 70


def test_flat_is_half_of_the_amplitude() -> None:
    black = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    assert (compose(black, texture(0, 0, ["flat"]), 0.4) == 51).all()


def test_it_writes_the_same_again_and_lists_its_textures(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "again"
    for _ in range(2):
        prepare(other, count=40)
        for path in sorted(other.iterdir()):
            assert path.read_bytes() == (root / path.name).read_bytes(), path.name
    with (root / "textures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == [texture(0, i).kind for i in range(40)]
    for row in rows:
        frequency = row["cycles_per_pixel"]
        assert (frequency == "") == (row["kind"] == "noise")
        assert not frequency or BAND[0] <= float(frequency) <= BAND[1]


def test_what_a_killed_one_left_is_completed(root: Path, tmp_path: Path) -> None:
    prepare(tmp_path, count=40)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"half"))
    prepare(tmp_path, count=40)
    assert (made(tmp_path) == made(root)).all()


def test_other_options_do_not_write_over_it(root: Path) -> None:
    before = made(root)
    for changed in ({"seed": 1}, {"amplitude": 0.5}, {"kinds": ["noise"]}, {"count": 41}):
        with pytest.raises(BiGainError, match=r"images of other options .*--root"):
            prepare(root, **{"count": 40, **changed})
    assert (made(root) == before).all()


def call(root: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> str:
    monkeypatch.setattr(sys, "argv", ["prepare_fashion_textured.py", "--root", str(root), *more])
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert "\n" not in str(caught.value.code)
    return str(caught.value.code)


def test_anything_else_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").touch()
    assert "it has no recipe.json" in call(tmp_path, monkeypatch)
    assert "it has no recipe.json" in call(tmp_path / "mine.txt", monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", "0"], "--count must lie in 1..10000"),
        (["--count", "10001"], "got 10001"),
        (["--amplitude", "0"], "--amplitude must be above 0"),
        (["--amplitude", "nan"], "got nan"),
    ],
)
def test_bad_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], message: str
) -> None:
    root = tmp_path / "new"
    assert message in call(root, monkeypatch, *more)
    assert not root.exists()


def test_unknown_kinds_are_named(tmp_path: Path) -> None:
    for kinds in (["stripes"], []):
        with pytest.raises(BiGainError, match="kinds must be some of grating"):
            prepare(tmp_path / "new", kinds=kinds)
    assert not (tmp_path / "new").exists()


def test_it_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "new"
    monkeypatch.setattr(sys, "argv", ["x", "--root", str(root), "--count", "3"])
    script.main()
    said = capsys.readouterr().out
    assert "3 images" in said and f"dataset=fashion_textured dataset.root={root}" in said
