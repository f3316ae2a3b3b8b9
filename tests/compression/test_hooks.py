"""compress(): what it takes and refuses, and the model left as it was.

Every compressor on whole models is in compressors/test_on_models.py.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from bigain import compress
from bigain.compressors import ABM, IEKVD, LGTM, Cached, Compose, LinearAlpha, ToDo, ToMe
from tests.planned import Planned, planned

both_models = pytest.mark.parametrize("kind", ["unet", "dit"])


def keys_of(plans: list[Planned]) -> list[tuple[int, ...]]:
    """The keys of the stream that each plan may draw from."""
    return [tuple(made.rng.keys.tolist()) for made in plans]


class Broken(LGTM):
    """Fails at the second block of a forward."""

    def plan(self, x, grid, t=None, rng=None, block=0):
        if "planned" in self.__dict__:
            raise ArithmeticError("inside a forward")
        self.__dict__["planned"] = True
        return super().plan(x, grid, t, rng, block)


@both_models
def test_restores_after_an_exception(kind, request):
    golden = request.getfixturevalue(kind)
    plain = golden()
    broken = compress(golden.model, Broken(0.5), blocks="all")
    with pytest.raises(ArithmeticError, match="inside"), broken:
        golden()
    assert golden.hooks() == 0 and torch.equal(golden(), plain)
    with compress(golden.model, LGTM(0.5)):  # and it may be compressed again
        assert not torch.equal(golden(), plain)


def test_an_exception_does_not_spoil_the_next_forward(unet):
    with compress(unet.model, Cached(LGTM(0.5))):
        want = unet()
        with pytest.raises((RuntimeError, ValueError)):
            unet(encoder_hidden_states=torch.zeros(3, 7, 5))
        assert torch.equal(unet(), want)


def test_compressing_twice_is_refused(unet):
    with compress(unet.model, LGTM(0.5)):
        hooks, want = unet.hooks(), unet()
        with pytest.raises(RuntimeError, match=r"compressed already; .* Compose"):
            compress(unet.model, ToDo(2)).__enter__()
        assert unet.hooks() == hooks and torch.equal(unet(), want)
    with compress(unet.model, ToDo(2)):
        assert not torch.equal(unet(), want)


def test_an_attachment_can_be_entered_again(unet):
    attachment = compress(unet.model, LGTM(0.5))
    with attachment:
        want = unet()
        with pytest.raises(RuntimeError, match="running already"):
            attachment.__enter__()
    assert unet.hooks() == 0
    with attachment:
        assert torch.equal(unet(), want)


@pytest.mark.parametrize(
    ("blocks", "places"),
    [
        ("default", [1, 1, 1]),
        ([1], [1, 1, 1]),
        ([2], [2, 2, 2]),
        ((4, 2), [2, 4, 2, 2]),
        ("all", [1, 2, 4, 2, 2, 1, 1]),
    ],
)
def test_unet_blocks_are_downsampling_factors(unet, blocks, places):
    with compress(unet.model, LGTM(0.5), blocks=blocks) as attachment:
        assert [b.place for b in attachment.blocks] == places
        plans = planned(attachment)
        unet()
    # blocks draw from different streams
    assert len(set(keys_of(plans))) == len(plans) == len(places)


@pytest.mark.parametrize(
    ("layers", "places"), [(28, [1, 2, 3, 4, 5, 7, 8, 9, 10, 11]), (6, [1, 2]), (4, [1])]
)
def test_dit_default_blocks(layers, places):
    with torch.device("meta"):
        model = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, num_layers=layers, sample_size=8
        )
    for blocks, chosen in (("default", places), ("all", [*range(layers)]), ([3, 0], [0, 3])):
        handle = compress(model, LGTM(0.5), blocks=blocks)
        assert [b.place for b in handle.blocks] == chosen
        handle.remove()


@pytest.mark.parametrize(
    ("kind", "blocks", "message"),
    [
        ("unet", [3], r"blocks \[3\] do not exist; .* downsampling factors: \[1, 2, 4\]"),
        ("unet", [1, 8], r"blocks \[8\] do not exist"),
        ("dit", [1, 4, 28], r"blocks \[4, 28\] do not exist; .* block indices: \[0, 1, 2, 3\]"),
        ("unet", [], r"blocks=\[\] leaves nothing to compress; .*: \[1, 2, 4\]"),
        ("unet", "first", "must be default, all or a list of downsampling factors, got 'first'"),
        ("unet", 1, r"a list of downsampling factors, got 1; .* factors: \[1, 2, 4\]"),
        ("dit", 0, r"a list of block indices, got 0; this model's block indices: \[0, 1, 2, 3\]"),
        ("dit", None, "default, all or a list of block indices, got None"),
        ("dit", [0, "1"], r"a list of block indices, got \[0, '1'\]"),
        ("dit", [1.5], r"a list of block indices, got \[1\.5\]"),
        ("dit", [True], r"a list of block indices, got \[True\]"),
        ("dit", [-1], r"blocks \[-1\] do not exist"),
        ("dit", "first", "must be default, all or a list of block indices, got 'first'"),
    ],
)
def test_blocks_that_are_refused(kind, blocks, message, request):
    model = request.getfixturevalue(kind).model
    with pytest.raises(ValueError, match=message):
        compress(model, LGTM(0.5), blocks=blocks)


@pytest.mark.parametrize(
    ("kind", "site"), [("unet", "cross_attention"), ("unet", "mlp"), ("dit", "mlp")]
)
def test_other_sites(kind, site, request):
    golden = request.getfixturevalue(kind)
    plain = golden()
    outs = [plain]
    for sites in ((site,), ("self_attention", site)):
        for compressor in (LGTM(0.5), ABM(threshold=110.0), Compose(LGTM(0.5), ToDo(2))):
            with compress(golden.model, compressor, sites=sites):
                outs.append(golden())
    # at another site alone, Compose is L-GTM: its keys and values serve self-attention
    assert torch.equal(outs[1], outs[3])
    del outs[3]
    for i, out in enumerate(outs):
        assert out.isfinite().all()
        assert all((out - other).abs().max() > 1e-4 for other in outs[:i])
    assert torch.equal(golden(), plain)


def test_other_sites_see_fewer_tokens(unet):
    lengths = []
    block = next(m for m in unet.model.modules() if hasattr(m, "attn1"))
    with compress(unet.model, LGTM(0.5), sites=("self_attention", "cross_attention", "mlp")):
        handles = [
            module.register_forward_pre_hook(lambda module, args: lengths.append(args[0].shape[1]))
            for module in (block.attn1, block.attn2, block.ff)
        ]
        unet()
    for handle in handles:
        handle.remove()
    assert lengths == [128, 128, 128]


@pytest.mark.parametrize(
    ("kind", "compressor", "sites", "message"),
    [
        ("dit", LGTM(0.5), ["cross_attention"], "blocks have no cross_attention; remove it"),
        ("unet", ToDo(2), ["mlp"], r"ToDo\(.*keys and values of self-attention alone; remove mlp"),
        ("unet", IEKVD(2), ["self_attention", "cross_attention"], "remove cross_attention"),
        ("unet", LGTM(0.5), ["attn1"], r"some of self_attention, .*mlp; got \['attn1'\]"),
        ("unet", LGTM(0.5), [], r"sites must be some of .*; got \[\]"),
        ("unet", LGTM(0.5), "mlp", "must be a list of .* cross_attention, mlp; got 'mlp', not in"),
        ("unet", LGTM(0.5), None, "must be a list of some of self_attention.*got None"),
    ],
)
def test_sites_that_are_refused(kind, compressor, sites, message, request):
    model = request.getfixturevalue(kind).model
    with pytest.raises(ValueError, match=message):
        compress(model, compressor, sites=sites)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), None, SimpleNamespace(unet=nn.Linear(2, 2))])
def test_other_models_are_refused(model):
    with pytest.raises(TypeError, match=r"UNet2DConditionModel, .* or a pipeline .* got"):
        compress(model, LGTM(0.5))


@pytest.mark.parametrize(("kind", "name"), [("unet", "unet"), ("dit", "transformer")])
def test_a_pipeline_stands_for_its_denoiser(kind, name, request):
    golden = request.getfixturevalue(kind)
    with compress(golden.model, LGTM(0.5)):
        want = golden()
    with compress(SimpleNamespace(**{name: golden.model}), LGTM(0.5)):
        assert torch.equal(golden(), want)


def test_a_pipeline_s_schedule_tells_how_many_timesteps_there_are(unet):
    pipe = SimpleNamespace(
        unet=unet.model, scheduler=SimpleNamespace(config={"num_train_timesteps": 40})
    )
    with compress(pipe, IEKVD(2, LinearAlpha())) as attachment:
        assert attachment.compressor.alpha.timesteps == 40
        unet()
    with compress(pipe, IEKVD(2, LinearAlpha(0.6, 1.2))):
        found = unet(timestep=torch.tensor([40, 20, 0]))
    with compress(unet.model, IEKVD(2, LinearAlpha(0.6, 1.2, timesteps=40))):
        assert torch.equal(unet(timestep=torch.tensor([40, 20, 0])), found)


@pytest.mark.parametrize("compressor", [ToMe(0.5), IEKVD(2, LinearAlpha())], ids=repr)
def test_timestep_of_any_shape_positional_or_not(unet, compressor):
    sample, text = unet.inputs["sample"], unet.inputs["encoder_hidden_states"]
    spelled: list[Any] = [325, 325.0, torch.tensor(325), torch.tensor([325]), torch.tensor([325.0])]
    with compress(unet.model, compressor):
        want = unet(timestep=torch.tensor([325] * 3))
        for t in spelled:
            assert torch.equal(unet(timestep=t), want)
            with torch.no_grad():
                assert torch.equal(unet.model(sample, t, text).sample, want)
                assert torch.equal(unet.model(sample, t, text, return_dict=False)[0], want)
        assert not torch.equal(unet(timestep=975), want)


def test_dit_positional(dit):
    with compress(dit.model, ToMe(0.5)), torch.no_grad():
        want = dit()
        inputs = [dit.inputs[name] for name in ("hidden_states", "timestep", "class_labels")]
        assert torch.equal(dit.model(*inputs).sample, want)


def test_equal_keys_and_timesteps_draw_equal_numbers(unet):
    def forward(keys: Tensor | None, t: list[int], seed: int = 0) -> list[tuple[int, ...]]:
        with compress(unet.model, ToMe(0.5), seed=seed) as attachment:
            attachment.sample_keys = keys
            plans = planned(attachment)
            unet(timestep=torch.tensor(t))
        return keys_of(plans)

    for block in forward(torch.tensor([5, 5, 6]), [25, 25, 25]):
        assert block[0] == block[1] != block[2]
    for block in forward(torch.tensor([5, 5, 5]), [25, 75, 25]):
        assert block[0] == block[2] != block[1]
    for block in forward(None, [25, 25, 25]):
        assert len(set(block)) == 1
    first, second = (forward(torch.tensor([5, 6, 7]), [25] * 3, seed) for seed in (0, 1))
    assert not set(sum(first, ())) & set(sum(second, ()))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_sample_keys_of_another_length_are_refused(unet, count):
    with compress(unet.model, ToMe(0.5)) as attachment:
        attachment.sample_keys = torch.arange(count)
        with pytest.raises(ValueError, match=f"{count} sample_keys for a batch of 3"):
            unet()
