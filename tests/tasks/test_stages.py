"""The staged classifier against the published one, and its invariances."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bigain import compress
from bigain.compression.sharing import Sharing
from bigain.compressors import IEKVD, LGTM, ToMe
from bigain.errors import BiGainError
from bigain.tasks.classify import Classify
from bigain.tasks.trials import rows
from tests.tiny_pipelines import TextUNet

GOLDEN = Path(__file__).parent.parent / "golden"
COMPRESSORS = {
    "none": None,
    "tome_0.5": ToMe(0.5, destinations="first"),
    "lgtm_0.5": LGTM(0.5),
    "lgtm_0.7": LGTM(0.7),
    "iekvd_2_0.9": IEKVD(2),
    "iekvd_4_1.2": IEKVD(4, 1.2),
}


@pytest.fixture(scope="module")
def golden():
    tensors = load_file(GOLDEN / "classifier.safetensors")
    return tensors, json.loads((GOLDEN / "classifier.json").read_text())


@pytest.fixture
def backbone(unet):
    return TextUNet(unet.model)


def run(
    backbone,
    protocol,
    tensors,
    compressor,
    batch_size=32,
    images=1,
    keys=None,
    plans="per_class",  # as in the published code
):
    latents = tensors["latent"].expand(images, -1, -1, -1)
    noise = tensors["noise"].expand(images, *tensors["noise"].shape)
    attached = nullcontext() if compressor is None else compress(backbone.denoiser, compressor)
    with attached as attachment, Sharing(backbone.denoiser, attachment, plans) as sharing:
        sharing.conditions(tensors["text"])
        return protocol.staged(backbone, sharing, batch_size).run(latents, noise, keys)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_published_classifier(golden, backbone, name):
    tensors, facts = golden
    protocol = Classify()
    scores = run(backbone, protocol, tensors, COMPRESSORS[name])
    grid = protocol.timesteps(1000)
    order = [grid[p] for stage in protocol.stages() for p in stage]
    assert scores.predictions.tolist() == [facts[name]["pred"]]
    for k in range(9):
        want = tensors[f"{name}.errors.{k}"]
        tried = int(scores.samples[0, k])
        assert order[:tried] == facts[name]["timesteps"][str(k)]
        torch.testing.assert_close(scores.trials[0, k, :tried], want, rtol=0, atol=1e-4)
        torch.testing.assert_close(scores.errors[0, k], want.mean(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_changes_nothing(golden, backbone, batch_size):
    tensors, _ = golden
    protocol = Classify(samples=(2, 4), keep=(3, 1))
    keys = torch.tensor([5])
    whole = run(backbone, protocol, tensors, ToMe(0.5), 18, keys=keys)
    other = run(backbone, protocol, tensors, ToMe(0.5), batch_size, keys=keys)
    torch.testing.assert_close(whole.errors, other.errors, rtol=0, atol=1e-5)
    assert torch.equal(whole.predictions, other.predictions)


def test_random_draws_follow_the_image_and_not_its_place(golden, backbone):
    tensors, _ = golden
    protocol = Classify(samples=(2,), keep=(1,))
    three = run(backbone, protocol, tensors, ToMe(0.5), images=3, keys=torch.tensor([1, 2, 1]))
    alone = run(backbone, protocol, tensors, ToMe(0.5), images=1, keys=torch.tensor([2]))
    torch.testing.assert_close(three.errors[1], alone.errors[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(three.errors[0], three.errors[2], rtol=0, atol=1e-5)
    assert (three.errors[0] - three.errors[1]).abs().max() > 1e-4


@pytest.mark.parametrize("paired", [True, False])
def test_classes_draw_alike_unless_unpaired(golden, backbone, paired):
    """Asked twice about one class, a paired compressor gives the same error twice."""
    tensors, _ = golden
    compressor = ToMe(0.5, destinations="random" if paired else "unpaired")
    same = {**tensors, "text": tensors["text"][:1].repeat(3, 1, 1)}
    protocol = Classify(samples=(2,), keep=(1,))
    errors = [
        run(backbone, protocol, same, compressor, size, keys=torch.tensor([5])).errors[0]
        for size in (1, 4)
    ]
    torch.testing.assert_close(errors[0], errors[1], rtol=0, atol=1e-5)
    assert ((errors[0] - errors[0][0]).abs().max() < 1e-5) == paired


def test_evaluations_are_those_made(golden, backbone):
    tensors, _ = golden
    protocol = Classify(samples=(1, 4), keep=(2, 1))
    assert run(backbone, protocol, tensors, None).samples.sum() == protocol.evaluations(9)


@pytest.mark.parametrize("compressor", [LGTM(0.7), IEKVD(2)])
def test_weights_hold_in_a_cascade(golden, backbone, compressor):
    """Its finalists' errors are those of the last stage, weighted."""
    tensors, _ = golden
    protocol = {"samples": (2, 4), "keep": (3, 1), "decide_with": "uncompressed"}
    equal = run(backbone, Classify(**protocol), tensors, compressor)
    weighted = run(backbone, Classify(**protocol, weights=[1, 1, 3, 1]), tensors, compressor)
    both = ~(equal.trials.isnan() | weighted.trials.isnan())
    factor = (torch.tensor([1, 1, 1, 3]) / 1.5).expand_as(equal.trials)
    assert both[..., 2:].any()
    torch.testing.assert_close(weighted.trials[both], (equal.trials * factor)[both])


@pytest.mark.parametrize("compressor", [ToMe(0.5), LGTM(0.7), IEKVD(2)])
def test_a_cascade_decides_by_uncompressed_trials_alone(golden, backbone, compressor):
    tensors, _ = golden
    cascade = Classify(decide_with="uncompressed")
    found = run(backbone, cascade, tensors, compressor, plans="shared")
    first = run(backbone, Classify(), tensors, compressor, plans="shared")
    whole = run(backbone, Classify(keep=(9, 1)), tensors, None)
    assert torch.equal(found.trials[..., :5], first.trials[..., :5])
    left = found.samples[0] == 20
    assert left.sum() == 5 and torch.equal(left, first.samples[0] == 20)
    last = found.trials[:, left, 5:]
    torch.testing.assert_close(last, whole.trials[:, left, 5:], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(last, first.trials[:, left, 5:], rtol=1e-4)
    assert left.nonzero()[last[0].mean(-1).argmin()] == found.predictions
    torch.testing.assert_close(found.errors[:, left], last.mean(-1))
    torch.testing.assert_close(found.errors[:, ~left], first.errors[:, ~left])
    assert cascade.uncompressed_share(9) == 75 / 120 and Classify().uncompressed_share(9) == 0


def test_one_stage_is_the_plain_mean(golden, backbone):
    tensors, _ = golden
    scores = run(backbone, Classify(samples=(4,), keep=(1,)), tensors, None)
    assert not scores.trials.isnan().any()
    assert scores.predictions[0] == scores.trials[0].mean(-1).argmin()


@pytest.mark.parametrize("loss", ["l1", "huber"])
def test_other_losses(golden, backbone, loss):
    tensors, _ = golden
    squared = run(backbone, Classify(samples=(2,), keep=(1,)), tensors, None).errors
    other = run(backbone, Classify(samples=(2,), keep=(1,), loss=loss), tensors, None).errors
    assert (squared - other).abs().min() > 1e-3


def test_weights_multiply_the_errors_of_their_timesteps(golden, backbone):
    tensors, _ = golden
    plain = Classify(samples=(2, 4), keep=(5, 1))
    weighted = Classify(samples=(2, 4), keep=(5, 1), weights=[1, 2, 3, 10])  # from clean to noisy
    assert plain.stages() == [[1, 3], [0, 2]]
    equal, scores = (run(backbone, each, tensors, None) for each in (plain, weighted))
    both = ~(equal.trials.isnan() | scores.trials.isnan())
    factor = (torch.tensor([2, 10, 1, 3]) / 4).expand_as(equal.trials)
    assert both[..., :2].all()
    torch.testing.assert_close(scores.trials[both], (equal.trials * factor)[both])
    assert scores.errors[0, scores.predictions[0]] == scores.trials[0].mean(-1).nan_to_num(9).min()


@pytest.mark.parametrize("broken_class", [slice(None), 4])
def test_nan_is_refused(golden, backbone, broken_class):
    """Also for one class alone, which could pass for one that is out of the race."""
    tensors, _ = golden
    text = tensors["text"].clone()
    text[broken_class] = torch.nan
    broken = {**tensors, "text": text}
    with pytest.raises(BiGainError, match="NaN or infinity"):
        run(backbone, Classify(), broken, None)


def test_rows_hold_every_class(golden, backbone):
    tensors, _ = golden
    scores = run(backbone, Classify(), tensors, None)
    (row,) = rows(scores, ["a"], [(3, 5)], 0.5)
    assert row["image_id"] == "a" and row["labels"] == [3, 5]
    assert len(row["errors"]) == len(row["samples"]) == 9 and len(row["trials"]) == 180


def test_evaluations_are_told_as_they_are_computed(backbone, golden):
    tensors, _ = golden
    told: list[int] = []
    protocol = Classify((2, 4), (2, 1))
    latents, noise = tensors["latent"], tensors["noise"][None, : protocol.trials]
    with Sharing(backbone.denoiser, None) as sharing:
        sharing.conditions(tensors["text"])
        protocol.staged(backbone, sharing, 3).run(latents, noise, evaluated=told.append)
    assert len(told) > 2 and sum(told) == protocol.evaluations(len(tensors["text"]))
