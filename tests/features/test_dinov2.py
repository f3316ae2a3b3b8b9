"""DINOv2's features: transformers' own class token, on dgm-eval's preparation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from bigain.errors import BiGainError
from bigain.features.dinov2 import DinoV2

CPU = torch.device("cpu")
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 42,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(path)
    return path


def picture(seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 300, channels), np.uint8)


def test_prepared_as_by_dgm_eval(folder: Path) -> None:
    theirs = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    network = DinoV2(str(folder))
    assert torch.equal(network.prepare(picture(0)), theirs(Image.fromarray(picture(0))))
    grey = picture(0, channels=1)
    assert torch.equal(network.prepare(grey), network.prepare(grey.repeat(3, 2)))


def test_class_token_after_the_last_norm(folder: Path) -> None:
    network = DinoV2(str(folder)).load(CPU)
    batch = torch.stack([network.prepare(picture(i)) for i in range(3)])
    model = Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(batch, output_hidden_states=True).hidden_states[-1]
        expected = model.layernorm(hidden)[:, 0]
    found = network(batch)
    torch.testing.assert_close(found.pooled, expected)
    assert found.pooled.shape == (3, 16)
    assert (found.spatial, found.logits) == (None, None)
    assert network(batch[:1]).pooled.allclose(found.pooled[:1], atol=1e-6)


def test_identity_follows_weights(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(tmp_path)
    ours, other = DinoV2(str(folder)).identity(), DinoV2(str(tmp_path)).identity()
    assert ours["name"] == "dinov2"
    assert ours == DinoV2(str(folder)).identity()
    assert ours["weights"] != other["weights"]
    assert str(folder) not in str(ours)


def refusal(path: str) -> str:
    with pytest.raises(BiGainError) as caught:
        DinoV2(path).load(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_dinov2(tmp_path: Path) -> None:
    for name in ("facebook/no-such-model", "/no/such/folder"):
        assert "features.path" in refusal(name)
    assert "config.json" in refusal(str(tmp_path))
    ViTModel(ViTConfig(**SMALL)).save_pretrained(tmp_path)
    assert "vit" in refusal(str(tmp_path))
