"""Shared work changes no number, and is shared indeed."""

from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
from bigain.compression.batch_groups import Groups, full_batches, whole_groups
from bigain.compression.sharing import Sharing
from bigain.compressors import (
    ABM,
    IEKVD,
    LGTM,
    Cached,
    Compose,
    KVMerge,
    KVSelect,
    LinearAlpha,
    SiTo,
    ToDo,
    ToMe,
)
from tests.planned import planned
from tests.tiny_families import state

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
    where = {"blocks": "all", "decide_on": "block_input"}
    with compress(dit.model, LGTM(0.5), **where) as attachment:
        plans = planned(attachment)
        with Sharing(dit.model, attachment) as sharing:
            sharing.conditions(condition)
            groups = Groups.runs(0, len(x), 4, CPU)
            forward(dit, x, t, sharing.batch(classes, groups, keys))
    sizes = [len(made.x) for made in plans]
    assert sizes == [len(groups.first)] + [len(x)] * (len(dit.model.transformer_blocks) - 1)


@pytest.mark.parametrize("decide_on", ["block_input", "attention_input"])
@pytest.mark.parametrize(
    "compressor",
    [
        ToMe(0.5),
        SiTo(0.5),
        LGTM(0.5),
        LGTM(0.5, merge="keep", proportional=True),
        KVSelect(2),
        KVMerge(0.5, proportional=True),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["unet", "dit"])
@torch.no_grad()
def test_all_classes_follow_the_plan_of_the_first(kind, compressor, decide_on, request):
    golden = request.getfixturevalue(kind).double()
    x, t, keys, condition, classes = samples(golden)
    (cut,) = whole_groups(len(x) // 4, 4, len(x), CPU)
    first, group = cut.together.first, cut.together.group

    with compress(golden.model, compressor, blocks="all", decide_on=decide_on) as attachment:
        plan = attachment.planner
        plans = planned(attachment)
        attachment.sample_keys = keys[first]
        alone = forward(golden, x[first], t[first], condition[classes[first]])

        # with the tokens of the first of each group
        def follow(compressor, _, grid, t, rng, block):
            return plan(compressor, plans.pop(0).x[group], grid, t, rng, block)

        attachment.planner, attachment.sample_keys = follow, keys
        want = forward(golden, x, t, condition[classes])

        attachment.planner = plan
        plans = planned(attachment)
        with Sharing(golden.model, attachment) as sharing:
            sharing.conditions(condition)
            given = sharing.batch(classes, None, keys, cut.together)
            got = forward(golden, x, t, given)
        sizes = {len(made.x) for made in plans}
        with Sharing(golden.model, attachment, "per_class") as sharing:
            sharing.conditions(condition)
            given = sharing.batch(classes, None, keys, cut.together)
            per_class = forward(golden, x, t, given)
    assert_close(got, want, rtol=0, atol=1e-9)
    assert_close(got[first], alone, rtol=0, atol=1e-9)
    assert_close(per_class[first], alone, rtol=0, atol=1e-9)
    assert (per_class - got).abs().max() > 1e-4  # the others have plans of their own
    if "queries" in compressor.shortens:
        assert sizes == {len(first)}


def test_leaving_forgets_who_plans_together(dit):
    x, _, keys, condition, classes = samples(dit)
    (cut,) = whole_groups(len(x) // 4, 4, len(x), CPU)
    with compress(dit.model, LGTM(0.5), blocks="all") as attachment:
        with Sharing(dit.model, attachment) as sharing:
            sharing.conditions(condition)
            sharing.batch(classes, None, keys, cut.together)
            assert attachment.groups is cut.together
        assert attachment.groups is None
        unpaired = ToMe(0.5, destinations="unpaired")
    with compress(dit.model, unpaired) as attachment, Sharing(dit.model, attachment) as sharing:
        assert not sharing.plans_together
    with pytest.raises(ValueError, match="plans must be one of shared, per_class; got 'both'"):
        Sharing(dit.model, None, "both")


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 5, 10, 23])
@pytest.mark.parametrize("batch", [1, 2, 7, 10, 64])
def test_cuts_hold_every_sample_once_and_the_first_of_its_group(count, size, batch):
    covered = []
    for cut in whole_groups(count, size, batch, CPU):
        assert 0 < len(cut.places) <= max(batch, 2)
        groups, (first, group) = cut.places // size, (cut.together.first, cut.together.group)
        assert torch.equal(groups[first][group], groups)
        assert (cut.places[first] % size == 0).all()  # of the whole group
        covered += cut.places[cut.repeated :].tolist()
        wide = cut.padded(70)
        assert len(wide.places) == len(wide.together.group) == 70
        assert torch.equal(wide.places[: len(cut.places)], cut.places)
    assert covered == list(range(count * size))
    plain = torch.cat([cut.places for cut in full_batches(count, size, batch, CPU)])
    assert plain.tolist() == covered


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


@pytest.mark.parametrize("smallest", [1, 4])
@pytest.mark.parametrize("sizes", [[3, 1, 2], [1, 5], [6], [1, 1, 1], [2, 2, 2, 2]])
def test_groups_of_any_size_name_a_sample_of_each(sizes, smallest):
    number = torch.repeat_interleave(torch.tensor(sizes))
    groups = Groups.of(number, smallest)
    assert len(groups.first) == max(len(sizes), smallest)
    assert torch.equal(number[groups.first][groups.group], number)


def test_leaving_restores_the_model(unet):
    before = state(unet.model)
    with Sharing(unet.model) as sharing:
        sharing.conditions(torch.zeros(2, 77, unet.model.config.cross_attention_dim))
        assert state(unet.model) != before
    assert state(unet.model) == before
