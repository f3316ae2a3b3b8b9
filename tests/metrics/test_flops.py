"""FLOPs against counts by hand."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from bigain.compressors import ABM, IEKVD, LGTM, ToDo
from bigain.metrics.flops import count

TOKENS, WIDTH, LAYERS = 256, 24, 3


@pytest.fixture(scope="module")
def model():
    return DiTTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=LAYERS,
        in_channels=1,
        out_channels=1,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=10,
    )


def attention(queries: int, keys: int) -> int:
    """Four projections, the similarity and the weighted sum."""
    projections = 2 * (2 * queries + 2 * keys) * WIDTH**2
    return projections + 2 * 2 * queries * keys * WIDTH


def test_uncompressed(model):
    mlp = 2 * 8 * TOKENS * WIDTH**2
    conditioning = 2 * (256 * WIDTH + WIDTH**2)
    block = attention(TOKENS, TOKENS) + mlp + conditioning + 2 * 6 * WIDTH**2
    patches = 2 * 2 * TOKENS * 4 * WIDTH  # in and out
    head = conditioning + 2 * 2 * WIDTH**2
    assert count(model).total == LAYERS * block + patches + head
    assert count(model).matching == 0


def test_merging(model):
    plain, merged = count(model), count(model, LGTM(0.5), blocks=[0, 2])
    cells = TOKENS // 4
    assert merged.matching == 2 * 2 * (TOKENS - cells) * cells * WIDTH
    saved = attention(TOKENS, TOKENS) - attention(TOKENS // 2, TOKENS // 2)
    assert merged.total == plain.total - 2 * saved + merged.matching


@pytest.mark.parametrize("compressor", [ToDo(2), IEKVD(2)])
def test_downsampling(model, compressor):
    plain, coarse = count(model), count(model, compressor, blocks="all")
    saved = attention(TOKENS, TOKENS) - attention(TOKENS, TOKENS // 4)
    assert coarse.matching == 0
    assert coarse.total == plain.total - LAYERS * saved


def test_a_count_that_depends_on_the_data_is_none(model):
    assert count(model, ABM(threshold=1.0)) is None
    assert count(model, ABM(0.5)).matching == 0


def test_the_model_is_left_alone(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    count(model, LGTM(0.5))
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
