"""Shared work changes no number, and is shared indeed."""

from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
from bigain.compression.batch_groups import Groups
from bigain.compression.sharing import Sharing
from bigain.compressors import ABM, IEKVD, LGTM, Cached, Compose, LinearAlpha, SiTo, ToDo, ToMe

COMPRESSORS = [
    None,
    LGTM(0.5),
    ToMe(0.7),
    SiTo(0.5),
    ABM(threshold=2.0),
    ToDo(2),
    IEKVD(2, LinearAlpha()),
    Cached(LGTM(0.5)),
    Compose(LGTM(0.5), IEKVD(2)),
]
CPU = torch.device("cpu")


def samples(golden, images=3, classes=4):
    """Every class of three noisy images: latents, timesteps, keys, condition and classes."""
    generator = torch.Generator().manual_seed(0)
    arguments = golden.inputs
    latent = next(v for v in arguments.values() if v.ndim == 4)
    x = torch.randn(images, *latent.shape[1:], generator=generator).to(latent)
    t = torch.tensor([100, 500, 900])[:images]
    if "encoder_hidden_states" in arguments:
        text = arguments["encoder_hidden_states"]
        condition = torch.randn(classes, *text.shape[1:], generator=generator).to(text)
    else:
        condition = torch.arange(classes)
    spread = torch.arange(images).repeat_interleave(classes)
    keys = torch.arange(10, 10 + images)
    return x[spread], t[spread], keys[spread], condition, torch.arange(classes).repeat(images)


def forward(golden, x, t, condition):
    name = "encoder_hidden_states" if condition.ndim > 1 else "class_labels"
    latent = "sample" if condition.ndim > 1 else "hidden_states"
    return golden.model(**{latent: x, "timestep": t, name: condition}).sample


@pytest.mark.parametrize("sites", [["self_attention"], ["self_attention", "mlp"]])
@pytest.mark.parametrize("compressor", COMPRESSORS, ids=repr)
@pytest.mark.parametrize("kind", ["unet", "dit"])
@torch.no_grad()
def test_shared_work_changes_nothing(kind, compressor, sites, request):
    if len(sites) > 1 and (compressor is None or "queries" not in compressor.shortens):
        pytest.skip("this compressor takes no other site")
    golden = request.getfixturevalue(kind).double()
    x, t, keys, condition, classes = samples(golden)

    def attached():
        if compressor is None:
            return nullcontext()
        return compress(golden.model, compressor, blocks="all", sites=sites)

    with attached() as attachment:
        if attachment is not None:
            attachment.sample_keys = keys
        want = forward(golden, x, t, condition[classes])
    with attached() as attachment, Sharing(golden.model, attachment) as sharing:
        sharing.conditions(condition)
        groups = Groups.runs(0, len(x), len(condition), CPU)
        got = forward(golden, x, t, sharing.batch(classes, groups, keys))
        assert_close(got, want, rtol=0, atol=1e-9)
        # a batch that begins and ends inside groups
        part = slice(3, 9)
        groups = Groups.runs(3, 6, len(condition), CPU)
        given = sharing.batch(classes[part], groups, keys[part])
        assert_close(forward(golden, x[part], t[part], given), want[part], rtol=0, atol=1e-9)
        # and one whose samples have nothing in common
        given = sharing.batch(classes[::4], None, keys[::4])
        assert_close(forward(golden, x[::4], t[::4], given), want[::4], rtol=0, atol=1e-9)


@torch.no_grad()
def test_a_unet_runs_once_a_group_up_to_its_first_cross_attention(unet):
    x, t, keys, condition, classes = samples(unet)
    sizes = {}
    architecture = architecture_of(unet.model)
    modules = [*architecture.before_condition(), unet.model.down_blocks[1].resnets[0]]

    def look(module, args, kwargs, output):
        sizes[module] = len(args[0] if args else kwargs["hidden_states"])

    with Sharing(unet.model) as sharing, ExitStack() as hooks:
        for module in modules:
            hook = module.register_forward_hook(look, with_kwargs=True)
            hooks.callback(hook.remove)
        sharing.conditions(condition)
        forward(unet, x, t, sharing.batch(classes, Groups.runs(0, len(x), 4, CPU), keys))
    assert (
        unet.model.conv_in in sizes and architecture.first_block().site("self_attention") in sizes
    )
    many = len(Groups.runs(0, len(x), 4, CPU).first)
    assert [sizes[module] for module in modules] == [many] * (len(modules) - 1) + [len(x)]


@torch.no_grad()
def test_texts_are_projected_once(unet):
    x, t, _, condition, classes = samples(unet)
    rows = []
    with Sharing(unet.model) as sharing, ExitStack() as hooks:
        sharing.conditions(condition)
        for projection in architecture_of(unet.model).condition_projections():
            hook = projection.register_forward_pre_hook(
                lambda module, args: rows.append(len(args[0]))
            )
            hooks.callback(hook.remove)
        forward(unet, x, t, sharing.batch(classes))
    assert rows == [0] * (2 * len(architecture_of(unet.model).blocks()))


@torch.no_grad()
def test_a_dit_plans_its_first_block_once_a_group(dit):
    x, t, keys, condition, classes = samples(dit)
    seen = []
    with compress(dit.model, LGTM(0.5), blocks="all") as attachment:
        plan = attachment.planner

        def look(compressor, x, *rest):
            seen.append(len(x))
            return plan(compressor, x, *rest)

        attachment.planner = look
        with Sharing(dit.model, attachment) as sharing:
            sharing.conditions(condition)
            groups = Groups.runs(0, len(x), 4, CPU)
            forward(dit, x, t, sharing.batch(classes, groups, keys))
    assert seen == [len(groups.first)] + [len(x)] * (len(dit.model.transformer_blocks) - 1)


def test_a_projection_that_is_no_plain_layer_stays_as_it_is(unet):
    unet = unet.double()  # a copy
    unet.model.fuse_qkv_projections()
    assert architecture_of(unet.model).condition_projections() == []


@pytest.mark.parametrize("size", [2, 3, 5, 8])
@pytest.mark.parametrize("batch", [4, 7, 8])
def test_runs_name_a_sample_of_each_group(size, batch):
    for start in range(20):
        groups = Groups.runs(start, batch, size, CPU)
        if groups is None:
            assert (batch - 2) // size + 2 >= batch
            continue
        noisy = torch.arange(start, start + batch) // size
        assert torch.equal(noisy[groups.first][groups.group], noisy)


def test_leaving_restores_the_model(unet):
    before = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.__dict__.get("forward"))
        for m in unet.model.modules()
    ]
    with Sharing(unet.model) as sharing:
        sharing.conditions(torch.zeros(2, 77, unet.model.config.cross_attention_dim))
    after = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.__dict__.get("forward"))
        for m in unet.model.modules()
    ]
    assert before == after
