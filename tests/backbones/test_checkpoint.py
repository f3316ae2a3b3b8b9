"""Pipelines of the hub and damaged folders: one line each that says what to do."""

import hashlib
import os
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file

from bigain.backbones import DiT, StableDiffusion
from bigain.backbones.checkpoint import Checkpoint
from bigain.errors import BiGainError
from bigain.utils import hub
from tests.tiny_pipelines import WEIGHTS, dit, stable_diffusion

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def copy(pipeline, tmp_path):
    return shutil.copytree(pipeline, tmp_path / "copy")


def refused(kind, status):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("some words\nof the hub", response=response)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refused(GatedRepoError, 401), r"gated: accept .*co/some/model .*`hf auth login`"),
        (refused(GatedRepoError, 403), r"gated: accept .*co/some/model .*`hf auth login`"),
        (refused(RepositoryNotFoundError, 401), "neither a folder nor a public model"),
        (refused(RevisionNotFoundError, 404), "no revision v2"),
        (LocalEntryNotFoundError("offline"), r"`hf download some/model --revision v2`"),
        (refused(HfHubHTTPError, 503), r"status 503.*`hf download some/model"),
        (ConnectionError("reset"), r"reset.*`hf download some/model"),
        (OSError("no space left"), r"no space left"),
    ],
)
@pytest.mark.parametrize("kind", [DiT, StableDiffusion])
def test_what_the_hub_refuses(monkeypatch, kind, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(BiGainError, match=message) as found:
        kind("some/model", "v2").identity()
    assert "\n" not in str(found.value)


def test_only_what_is_needed_is_fetched(monkeypatch, pipeline):
    asked: dict[str, Any] = {}

    def fetch(path, **arguments):
        asked.update(arguments, path=path)
        return str(pipeline)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    backbone = StableDiffusion("some/model", "v2")
    backbone.identity()
    assert (asked["path"], asked["revision"]) == ("some/model", "v2")
    allowed, ignored = asked["allow_patterns"], asked["ignore_patterns"]
    published = [
        *("unet/" + WEIGHTS, "unet/diffusion_pytorch_model.fp16.safetensors"),
        *("unet/diffusion_pytorch_model.bin", "unet/config.json", "tokenizer/merges.txt"),
        *("safety_checker/model.safetensors", "v2.ckpt", "vae/config.json"),
    ]
    wanted = hub_files(published, allowed, ignored)
    assert wanted == [
        *("unet/" + WEIGHTS, "unet/config.json", "tokenizer/merges.txt", "vae/config.json")
    ]


def hub_files(names, allowed, ignored):
    from huggingface_hub.utils import filter_repo_objects

    return list(filter_repo_objects(names, allow_patterns=allowed, ignore_patterns=ignored))


def test_older_weights_where_there_are_no_safetensors(monkeypatch, tmp_path):
    folder = dit(tmp_path / "dit", classes=10)
    weights = folder / "transformer" / WEIGHTS
    tensors = load_file(weights)
    weights.unlink()
    asked = []

    def fetch(path, allow_patterns, **_):
        asked.append(allow_patterns)
        if len(asked) == 2:
            torch.save(tensors, folder / "transformer" / "diffusion_pytorch_model.bin")
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    backbone = DiT("some/dit")
    (name,) = backbone.identity()["transformer"]["weights"]
    assert name == "diffusion_pytorch_model.bin"
    assert set(asked[1]) - set(asked[0]) == {"transformer/*pytorch_model*.bin"}
    loaded = backbone.load(CPU, torch.float32).denoiser.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in tensors.items())


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("unet/config.json", "not found; model.path must be"),
        (f"unet/{WEIGHTS}", "no .*weights; model.path must be"),
        ("vae", "not found; model.path must be"),
        ("text_encoder/model.safetensors", "no .*weights; model.path must be"),
        ("tokenizer", "lacks vocab.json and merges.txt"),
        ("scheduler", "not found; model.path must be"),
    ],
)
def test_a_missing_component_is_named(copy, monkeypatch, missing, message):
    place = copy / missing
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    for use in (StableDiffusion.identity, lambda b: b.load(CPU, torch.float32)):
        with pytest.raises(BiGainError, match=f"{missing.partition('/')[0]}.*{message}"):
            use(StableDiffusion(str(copy)))
    # from the hub, the mending command is another
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(copy))
    with pytest.raises(BiGainError, match="hf download some/model --force-download"):
        StableDiffusion("some/model").identity()


@pytest.mark.parametrize(
    "file", [f"unet/{WEIGHTS}", f"vae/{WEIGHTS}", "text_encoder/model.safetensors"]
)
def test_corrupt_weights_are_named(copy, file):
    path = copy / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BiGainError, match=f"{path.parent.name} cannot be loaded.*copy the model"):
        StableDiffusion(str(copy)).load(CPU, torch.float32)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_corrupt_tokenizer_is_named(copy, file):
    (copy / "tokenizer" / file).write_text("{")
    with pytest.raises(BiGainError, match="tokenizer cannot be loaded"):
        StableDiffusion(str(copy)).load(CPU, torch.float32)


def test_a_pipeline_s_index_tells_what_belongs_to_it(tmp_path):
    folder = dit(tmp_path / "dit", classes=10)
    shutil.rmtree(folder / "vae")
    assert Checkpoint(str(folder), ("transformer", "vae")).has("vae")
    with pytest.raises(BiGainError, match=r"vae.*not found"):
        DiT(str(folder)).identity()


@pytest.fixture
def cache(pipeline, tmp_path, monkeypatch):
    """The pipeline in the hub's cache, as `hf download some/model` leaves it, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = tmp_path / "models--some--model"
    commit = "0" * 40
    for file in pipeline.rglob("*.*"):
        link = model / "snapshots" / commit / file.relative_to(pipeline)
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        blob = model / "blobs" / (name if file.suffix == ".safetensors" else name[:40])
        for path in (link, blob):
            path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    return model


def test_a_cached_model_needs_no_network(cache, pipeline):
    backbone = StableDiffusion("some/model")
    assert backbone.skeleton().config.sample_size == 8
    assert backbone.identity() == StableDiffusion(str(pipeline)).identity()
    backbone.load(CPU, torch.float32)
    (cache / "refs" / "main").unlink()
    with pytest.raises(BiGainError, match=r"cannot be fetched now .*`hf download some/model`"):
        StableDiffusion("some/model").identity()


def test_variants_are_other_weights(pipeline, copy):
    before = StableDiffusion(str(pipeline)).identity()
    (copy / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half")
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"old")
    assert StableDiffusion(str(copy)).identity() == before
    (copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    assert StableDiffusion(str(copy)).identity() != before
