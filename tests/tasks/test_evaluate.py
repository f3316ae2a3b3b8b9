"""The scores of a folder: each the library's number, refused where there are too few images."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bigain.datasets import FashionMNIST
from bigain.errors import BiGainError
from bigain.features import FashionFeatures, Features, extract
from bigain.metrics.frechet import FID, Moments, SpatialFID, frechet_distance
from bigain.metrics.image_metric import ImageMetric
from bigain.metrics.inception_score import InceptionScoreMetric, inception_score
from bigain.metrics.kernel import KID, kernel_distance
from bigain.metrics.manifold import (
    DensityCoverageMetric,
    PrecisionRecallMetric,
    density_coverage,
    precision_recall,
)
from bigain.metrics.prompt_score import ClipScoreMetric
from bigain.store.reference_statistics import ReferenceStatistics
from bigain.store.runs import Run
from bigain.tasks.evaluate import Evaluate
from bigain.utils.images import ImageFolder, open_folder, pixels, write_png

D = 6


def metrics(
    replicates: int = 200, neighbours: int = 3, subsets: int = 100, subset_size: int = 1000
) -> list[ImageMetric]:
    return [
        FID(replicates),
        SpatialFID(),
        KID(subsets, subset_size),
        PrecisionRecallMetric(neighbours),
        DensityCoverageMetric(),
        InceptionScoreMetric(),
        ClipScoreMetric(),
    ]


FEW = Evaluate(metrics(20, subsets=5, subset_size=20))


class Toy:
    """Fixed random projections of 8x8 RGB images."""

    name = "toy"

    def __init__(self, seed: int = 0, bare: bool = False) -> None:
        self.seed, self.bare = seed, bare
        weights = torch.randn(192, 3 * D, generator=torch.Generator().manual_seed(seed))
        self.weights = weights.double() / 14

    def identity(self) -> dict[str, Any]:
        return {"name": self.name, "seed": self.seed}

    def load(self, device: torch.device) -> Self:
        return self

    def prepare(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).double() / 127.5 - 1

    def __call__(self, batch: Tensor) -> Features:
        pooled, spatial, logits = (batch.flatten(1) @ self.weights).float().split(D, 1)
        return Features(pooled) if self.bare else Features(pooled, spatial[:, :4], logits)


class Clip:
    """A score of mean brightness, where the prompt is the image's own."""

    def scores(
        self, images: Iterable[np.ndarray], prompts: Sequence[str], batch_size: int
    ) -> np.ndarray:
        assert [f"prompt {i:03d}" for i in range(len(prompts))] == list(prompts)
        return np.array([image.mean() for image in images])


def pictures(seed: int, n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    means = rng.normal(128 + 10 * seed, 20, (n, 1, 1, 1))
    return list((means + rng.normal(0, 30, (n, 8, 8, 3))).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    path = tmp_path_factory.mktemp("images")
    for i, image in enumerate(pictures(1, 40)):
        about = {"bigain.fingerprint": "a", "bigain.prompt": f"prompt {i:03d}"}
        write_png(path / f"{i:03d}.png", image, about)
    return open_folder(path)


@pytest.fixture(scope="module")
def reference() -> ReferenceStatistics:
    return make_reference(60)


def make_reference(n: int, **toy: Any) -> ReferenceStatistics:
    features = extract(Toy(**toy), pictures(0, n), 16, n)
    return ReferenceStatistics.of("data-test-toy", Toy(**toy), {"name": "data"}, features)


def score(
    folder: ImageFolder, reference: ReferenceStatistics, task: Evaluate = FEW, **changes: Any
) -> dict[str, Any]:
    settings: dict[str, Any] = {"network": Toy(), "batch_size": 16, "seed": 3} | changes
    network = settings.pop("network")
    found = task.score(folder, network, reference, **settings)
    return {key: value for values in found.values() for key, value in values.items()}


def refusal(*arguments: Any, **changes: Any) -> str:
    with pytest.raises(BiGainError) as caught:
        score(*arguments, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_is_its_own_metric(folder: ImageFolder, reference: ReferenceStatistics) -> None:
    found = score(folder, reference, clip=Clip())
    x = extract(Toy(), pictures(1, 40), 40, 40)
    y = reference.features
    assert len(y) == reference.n == found["reference_n"] == 60
    assert found["fid"] == pytest.approx(frechet_distance(Moments.of(x.pooled), Moments.of(y)))
    spatial = reference.spatial
    assert spatial is not None
    assert found["sfid"] == pytest.approx(frechet_distance(Moments.of(x.spatial), spatial))
    kid = kernel_distance(x.pooled, y, 5, 20, 3)
    assert (found["kid"], found["kid_error"]) == pytest.approx((kid.value, kid.error))
    pr = precision_recall(x.pooled, y, 3)
    assert (found["precision"], found["recall"]) == (pr.precision, pr.recall)
    dc = density_coverage(x.pooled, y, 5)
    assert (found["density"], found["coverage"]) == (dc.density, dc.coverage)
    score_of_logits = inception_score(x.logits, 3)
    assert found["inception_score"] == pytest.approx(score_of_logits.value)
    assert found["inception_score_error"] == pytest.approx(score_of_logits.error)
    brightness = np.array([image.mean() for image in pictures(1, 40)])
    half = 1.96 * brightness.std(ddof=1) / 40**0.5
    clip = [found[key] for key in ("clip_score", "clip_low", "clip_high")]
    mean = brightness.mean()
    assert clip == pytest.approx([mean, mean - half, mean + half])


def test_worse_images_score_worse(tmp_path: Path) -> None:
    """Real garments, blurred ones and noise, by the network and the statistics that ship."""
    assets = Path(__file__).parents[2] / "assets"
    network = FashionFeatures(str(assets / "fashion_features")).load(torch.device("cpu"))
    real = ReferenceStatistics.load(assets / "statistics" / "fashion_mnist-train-fashion.npz")
    dataset = FashionMNIST(str(assets / "fashion_mnist"))
    images = torch.stack([dataset[i].image for i in range(300)])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    sets = (images, F.avg_pool2d(images, 5, 1, 2, count_include_pad=False), noise)
    task = Evaluate(metrics(50, subset_size=100, subsets=10))
    found = []
    for name, batch in zip("abc", sets, strict=True):
        (tmp_path / name).mkdir()
        for i, image in enumerate(pixels(batch)):
            write_png(tmp_path / name / f"{i:03d}.png", image, {})
        found.append(score(open_folder(tmp_path / name), real, task, network=network))
    for metric, sign in [("fid", 1), ("sfid", 1), ("kid", 1), ("precision", -1), ("recall", -1)]:
        values = [sign * scores[metric] for scores in found]
        assert values == sorted(values), metric
        assert values[0] < values[2], metric
    assert found[0]["fid_high"] < found[1]["fid_low"]
    assert found[0]["precision"] > 0.7
    assert found[2]["coverage"] < 0.05


def test_interval(folder: ImageFolder, reference: ReferenceStatistics) -> None:
    found = score(folder, reference)
    assert len(found["fid_replicates"]) == 20
    half = 1.96 * np.std(found["fid_replicates"], ddof=1)
    assert found["fid_high"] == pytest.approx(found["fid"] + half)
    assert found["fid_low"] == pytest.approx(max(found["fid"] - half, 0))
    assert found["clip_score"] is None


def test_plain_json_that_names_its_sources(
    folder: ImageFolder, reference: ReferenceStatistics
) -> None:
    found = score(folder, reference)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["features"], found["n"], found["reference_name"]) == ("toy", 40, "data-test-toy")
    assert found["reference"] == reference.fingerprint
    assert len(found["network"]) == 16


def test_batch_size_and_order_of_files_do_not_matter(
    folder: ImageFolder, reference: ReferenceStatistics, tmp_path: Path
) -> None:
    for path in reversed(folder.paths):  # in the reverse order of writing
        (tmp_path / path.name).write_bytes(path.read_bytes())
    expected = score(folder, reference)
    assert score(open_folder(tmp_path), reference, batch_size=16) == expected
    other = score(folder, reference, batch_size=1)
    assert other.pop("fid_replicates") == pytest.approx(expected.pop("fid_replicates"), rel=1e-5)
    for key, value in other.items():
        close = value if isinstance(value, str | None) else pytest.approx(value, rel=1e-5)
        assert expected[key] == close


def test_seed_changes_what_is_drawn_alone(
    folder: ImageFolder, reference: ReferenceStatistics
) -> None:
    first, second = score(folder, reference), score(folder, reference, seed=4)
    changed = {key for key in first if first[key] != second[key]}
    drawn = {"fid_low", "fid_high", "fid_replicates", "kid", "kid_error"}
    assert changed - {"inception_score", "inception_score_error"} == drawn


def test_a_network_without_maps_or_classes(folder: ImageFolder) -> None:
    bare = make_reference(60, bare=True)
    found = score(folder, bare, network=Toy(bare=True))
    missing = {key for key, value in found.items() if value is None}
    assert missing == {
        "sfid",
        "inception_score",
        "inception_score_error",
        "clip_score",
        "clip_low",
        "clip_high",
    }


def test_another_network_is_refused(folder: ImageFolder, reference: ReferenceStatistics) -> None:
    assert "seed" in refusal(folder, reference, network=Toy(seed=1))


@pytest.mark.parametrize(
    ("data", "given"),
    [
        ({"name": "imagenet1k", "split": "val"}, None),
        ({"name": "imagenet1k", "split": "val-2000"}, "imagenet1k, split val-2000"),
        ({"name": "imagenet100", "split": "val"}, "imagenet100, split val"),
        ({"name": "pets", "split": "test"}, "pets, split test"),
    ],
)
def test_adm_is_for_runs_of_all_of_imagenet(
    tmp_path: Path, reference: ReferenceStatistics, data: dict[str, str], given: str | None
) -> None:
    run = Run.create(tmp_path, "generate", {"dataset": data}, {})
    (run.path / "images").mkdir()
    for i, image in enumerate(pictures(1, 40)):
        about = {"bigain.fingerprint": run.fingerprint}
        write_png(run.path / "images" / f"{i:03d}.png", image, about)
    images = open_folder(run.path / "images")
    adm = dataclasses.replace(reference, name="adm-imagenet256-toy")
    if given is None:
        assert score(images, adm)["n"] == 40
    else:
        message = refusal(images, adm)
        assert f"adm-imagenet256-toy is of all of ImageNet, the images are of {given};" in message
        assert "leave out protocol=adm" in message
        assert score(images, reference)["n"] == 40
    # images that lie apart from their run tell no data
    moved = (run.path / "images").rename(tmp_path / "moved")
    assert score(open_folder(moved), adm)["n"] == 40


def test_too_few_images_are_refused(folder: ImageFolder, reference: ReferenceStatistics) -> None:
    few = open_folder(folder.path, D)
    message = refusal(few, reference)
    assert "evaluation.allow_few=true" in message
    assert f"fid {D + 1}" in message
    assert "kid 20" in message
    assert "kid" in refusal(folder, reference, Evaluate(metrics()))  # its subsets are of 1000
    assert "recall" in refusal(few, reference, Evaluate(metrics(2, neighbours=6)))
    enough = Evaluate(metrics(2, subset_size=5, subsets=1))
    assert score(open_folder(folder.path, 10), reference, enough)["kid"] is not None


def test_a_small_reference_is_refused(folder: ImageFolder) -> None:
    message = refusal(folder, make_reference(D))
    assert "evaluation.allow_few=true" in message
    assert f"of {D} images" in message


@pytest.mark.parametrize(
    ("n", "missing"),
    [
        (1, "fid sfid kid precision recall inception_score"),
        (3, "kid precision recall inception_score"),
        (4, "kid inception_score"),
        (10, "kid"),
        (20, ""),
    ],
)
def test_few_images_by_name(
    folder: ImageFolder, reference: ReferenceStatistics, n: int, missing: str
) -> None:
    task = Evaluate(FEW.metrics, allow_few=True)
    found = score(open_folder(folder.path, n), reference, task)
    json.dumps(found, allow_nan=False)
    metrics = ("fid", "sfid", "kid", "precision", "recall", "density", "coverage")
    none = [key for key in (*metrics, "inception_score") if found[key] is None]
    assert none == missing.split()


def test_clip_needs_prompts(
    folder: ImageFolder, reference: ReferenceStatistics, tmp_path: Path
) -> None:
    for i, image in enumerate(pictures(1, 40)):
        write_png(tmp_path / f"{i:03d}.png", image, {"bigain.prompt": "x"} if i else {})
    assert "prompt" in refusal(open_folder(tmp_path), reference, clip=Clip())


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FID, {"replicates": 1}),
        (DensityCoverageMetric, {"neighbours": 0}),
        (PrecisionRecallMetric, {"neighbours": 0}),
        (KID, {"subset_size": 1.5}),
        (KID, {"subsets": True}),
    ],
)
def test_settings_are_checked(kind: type[ImageMetric], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


def test_only_what_a_metric_reads_is_computed(
    folder: ImageFolder, reference: ReferenceStatistics
) -> None:
    class Asleep(Toy):
        def __call__(self, batch: Tensor) -> Features:
            raise AssertionError("nothing reads features")

    found = score(folder, reference, Evaluate([ClipScoreMetric()]), network=Asleep(), clip=Clip())
    assert found["clip_score"] is not None and "fid" not in found
    found = score(folder, reference, Evaluate([KID(5, 20)]))
    assert found["kid"] is not None and "clip_score" not in found
