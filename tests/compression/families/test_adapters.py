"""The adapters of today's families, what is counted with them, and torch.compile."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
from bigain.compressors import IEKVD, LGTM, Compose, ToDo
from bigain.profiling.flops import count
from tests import tiny_families
from tests.tiny_families import Tiny

BOTH = Compose(LGTM(0.5), IEKVD(2))
every_family = pytest.mark.parametrize("family", tiny_families.FAMILIES)
transformers = pytest.mark.parametrize("family", ["pixart", "sd3", "flux"])


@every_family
def test_the_adapter(family):
    tiny = Tiny(family)
    architecture = tiny.architecture
    call = architecture.read((), tiny.inputs)
    assert call.timestep.tolist() == pytest.approx([250, 750])
    assert architecture.size((), tiny.inputs) == architecture.latent_shape[1:] == (16, 16)
    assert len(architecture.null_condition()) == 1
    held = [(place, inner) for place, area in architecture.areas() for inner in area.modules()]
    for block in architecture.blocks():
        assert [place for place, inner in held if inner is block.module] == [block.place]
    (place,) = chosen = architecture.default_places()
    assert architecture.tokens(place) == 64
    assert any(places == chosen and "64 tokens" in w for w, places in architecture.groups(chosen))


@transformers
@pytest.mark.parametrize("size", [(17, 22), (22, 17)])
@pytest.mark.filterwarnings("ignore:.*leaves all tokens as they are")
def test_grids_are_the_model_s_own_at_any_size(family, size):
    """ToDo(1) changes nothing, but checks each grid against the block's tokens."""
    tiny = Tiny(family)
    if family == "flux":  # a pipeline packs only even sides
        size = tuple(side // 2 * 2 for side in size)
    latent, t = torch.randn(2, 4, *size).double(), torch.tensor([100, 200])
    inputs = tiny.architecture.inputs(latent, t, tiny.inputs["encoder_hidden_states"])
    want = tiny(**inputs)
    with compress(tiny.model, ToDo(1), blocks="all"):
        assert torch.equal(tiny(**inputs), want)
    with compress(tiny.model, LGTM(0.5), blocks="all"):
        assert not torch.equal(tiny(**inputs), want)


@transformers
def test_what_is_saved_is_counted(family):
    """By hand: projections of the image's tokens, and attention over those of both."""
    model = tiny_families.denoiser(family)
    blocks = architecture_of(model).default_places()
    plain, merged, coarse = (count(model, c) for c in (None, LGTM(0.5), ToDo(2)))
    (place,) = blocks
    for flops in (plain, merged, coarse):
        assert sum(flops.breakdown.values()) == flops.total
        assert min(flops.breakdown.values()) >= 0
        changed = {key for key, n in flops.breakdown.items() if n != plain.breakdown.get(key, 0)}
        assert changed <= {(place, "self_attention"), (place, "matching")}
    n, c = 64, 24 if family == "pixart" else 16
    text = {"pixart": 0, "sd3": 77 + 256, "flux": 512}[family]

    def attention(queries: int, keys: int, words: int = text) -> int:
        return 2 * (2 * queries + 2 * keys) * c**2 + 4 * (queries + words) * (keys + words) * c

    def saved(queries: int, keys: int) -> int:
        less = attention(n, n) - attention(queries, keys)
        if family == "sd3":  # block 1 has a second attention of the image alone
            less += attention(n, n, 0) - attention(queries, keys, 0)
        return less

    assert place == 1
    assert merged.matching == 2 * (n - n // 4) * (n // 4) * c
    assert merged.total == plain.total - saved(n // 2, n // 2) + merged.matching
    assert coarse.total == plain.total - saved(n, n // 4)


# torch.compile


SMALL: dict[str, dict[str, Any]] = {
    "sd3": {"num_layers": 1},
    "flux": {"num_layers": 1, "num_single_layers": 1},
}


@pytest.mark.parametrize("family", SMALL)
def test_compiled(family, dynamo):
    """One graph where the shapes say how the tokens lie; of Flux, one for each block."""
    tiny = Tiny(family, **SMALL[family])
    with compress(tiny.model, BOTH, blocks="all"):
        want = tiny()
    if family == "flux":
        tiny.model.compile_repeated_blocks(backend="eager", fullgraph=True)
    else:
        tiny.model = torch.compile(tiny.model, backend="eager", fullgraph=True)
    with compress(tiny.model, BOTH, blocks="all"):
        assert_close(tiny(), want, rtol=0, atol=1e-6)
        with dynamo.config.patch(error_on_recompile=True):
            tiny()


@pytest.mark.filterwarnings("ignore:nothing was compressed")
def test_a_whole_flux_breaks_the_graph_to_read_its_grid(dynamo):
    """It is read anew: two images with as many tokens each, but other sides."""
    tiny = Tiny("flux", num_layers=0, num_single_layers=1)
    condition = tiny.inputs["encoder_hidden_states"]
    sizes = [
        tiny.architecture.inputs(
            torch.randn(2, 4, *size).double(), torch.full((2,), 300), condition
        )
        for size in ((8, 24), (24, 8))
    ]
    with compress(tiny.model, LGTM(0.5), blocks="all"):
        wants = [tiny(**one) for one in sizes]
    tiny.model = torch.compile(tiny.model, backend="eager")
    with compress(tiny.model, LGTM(0.5), blocks="all"):
        for one, want in zip(sizes, wants, strict=True):
            assert_close(tiny(**one), want, rtol=0, atol=1e-6)
    tiny.model = torch.compile(tiny.model._orig_mod, backend="eager", fullgraph=True)
    with (
        compress(tiny.model, LGTM(0.5), blocks="all"),
        pytest.raises(dynamo.exc.Unsupported, match="compile_repeated_blocks"),
    ):
        tiny()
