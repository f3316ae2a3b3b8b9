"""The CLIP score equals torchmetrics'."""

from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor
from torchmetrics.functional.multimodal import clip_score
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

from bigain.errors import BiGainError
from bigain.features import pretrained
from bigain.features.clip import ClipScore
from bigain.utils import hub

CPU = torch.device("cpu")
PROMPTS = ["a photo of a cat.", "dog", "a bag", "red hat", "b", "a coat and a shirt"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights whose tokens are letters."""
    path = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["."]
    tokens = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[])
    tokenizer.model_max_length = 24
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    layers |= {"num_attention_heads": 2}
    end = {"eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    text = {**layers, **end, "vocab_size": len(tokens), "max_position_embeddings": 24}
    vision = {**layers, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
        path
    )
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(path)
    return path


def pictures(channels: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20, 24, channels), np.uint8) for _ in PROMPTS]


def theirs(folder: Path, images: list[np.ndarray], prompts: list[str]) -> float:
    model = CLIPModel.from_pretrained(folder).eval()

    def tensors(method: str) -> None:
        """transformers 5 returns more than the tensor that torchmetrics 1.9 expects."""
        original = getattr(model, method)

        def call(*arguments: Tensor) -> Tensor:
            found = original(*arguments)
            return found if isinstance(found, Tensor) else found.pooler_output

        setattr(model, method, call)

    tensors("get_image_features")
    tensors("get_text_features")
    batch = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    processor = CLIPProcessor.from_pretrained(folder)
    with torch.no_grad():
        return clip_score(batch, prompts, lambda: (model, processor)).item()


def test_equals_torchmetrics(folder: Path) -> None:
    found = ClipScore(str(folder)).load(CPU).scores(pictures(), PROMPTS, 6)
    one_by_one = [
        theirs(folder, [image], [prompt]) for image, prompt in zip(pictures(), PROMPTS, strict=True)
    ]
    assert found == pytest.approx(one_by_one, abs=1e-3)
    assert found.dtype == np.float64
    above = [i for i, value in enumerate(found) if value > 0]
    assert 1 < len(above) < len(PROMPTS)  # both sides of the clip at 0
    mean = theirs(folder, [pictures()[i] for i in above], [PROMPTS[i] for i in above])
    assert found[above].mean() == pytest.approx(mean, abs=1e-3)


def test_batches_and_grey(folder: Path) -> None:
    scorer = ClipScore(str(folder)).load(CPU)
    whole = scorer.scores(pictures(1), PROMPTS, 6)
    assert scorer.scores(iter(pictures(1)), PROMPTS, 4) == pytest.approx(whole, abs=1e-3)
    assert scorer.scores([p.repeat(3, 2) for p in pictures(1)], PROMPTS, 6) == pytest.approx(whole)


def test_long_prompts_are_cut(folder: Path) -> None:
    scorer = ClipScore(str(folder)).load(CPU)
    long = ["x" * 200 + ending for ending in ("a", "b")]
    cut, same = scorer.scores(pictures()[:1] * 2, long, 2)
    assert cut == same


def test_identity_and_what_is_no_clip(folder: Path, tmp_path: Path) -> None:
    assert str(folder) not in str(ClipScore(str(folder)).identity())
    with pytest.raises(BiGainError, match=r"evaluation\.clip") as caught:
        ClipScore("openai/no-such-clip").load(CPU)
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BiGainError, match="bert"):
        ClipScore(str(tmp_path)).load(CPU)


def test_a_network_that_cannot_be_fetched_names_its_setting(monkeypatch):
    def fail(*_, **__):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(BiGainError, match=r"evaluation\.clip=FOLDER"):
        pretrained.folder("some/clip", "evaluation.clip")
