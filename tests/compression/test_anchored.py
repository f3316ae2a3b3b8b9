"""Anchored compression: anchors are exact, and followers add what their anchor lost."""

from functools import partial

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
from bigain.compression.batch_groups import Groups, whole_groups
from bigain.compression.sharing import Sharing
from bigain.compressors import (
    IEKVD,
    LGTM,
    Anchored,
    Cached,
    Compose,
    KVMerge,
    SiTo,
    ToDo,
    ToMe,
)
from bigain.errors import BiGainError
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.experiments.runner import execute
from bigain.profiling.flops import count
from bigain.tasks.classify import Classify
from tests import tiny_families
from tests.planned import planned

INNER = [ToMe(0.5), SiTo(0.5), ToDo(2), KVMerge(0.5), Compose(LGTM(0.5), IEKVD(2))]
inner = pytest.mark.parametrize("inner", INNER, ids=lambda c: type(c).__name__)
both_models = pytest.mark.parametrize("kind", ["unet", "dit"])
CPU = torch.device("cpu")


class Trials:
    """Four classes of each of three noisy images, in one batch."""

    def __init__(self, golden) -> None:
        self.golden = golden = golden.double()
        self.architecture = architecture_of(golden.model)
        generator = torch.Generator().manual_seed(0)
        latent, _, condition = self.architecture.arguments
        given = golden.inputs[latent]
        x = torch.randn(3, *given.shape[1:], generator=generator).to(given)
        self.spread = torch.arange(3).repeat_interleave(4)
        self.x, self.t = x[self.spread], torch.tensor([100, 500, 900])[self.spread]
        text = golden.inputs[condition]
        self.condition = (
            torch.randn(4, *text.shape[1:], generator=generator).to(text)
            if text.is_floating_point()
            else torch.arange(4)
        )
        self.classes = torch.arange(4).repeat(3)

    @torch.no_grad()
    def __call__(self, samples=slice(None), condition=None):
        condition = self.condition[self.classes][samples] if condition is None else condition
        inputs = (self.x[samples], self.t[samples], condition)
        return self.golden.model(**self.architecture.inputs(*inputs)).sample

    def shared(self, compressor, start=0, stop=12):
        """The outputs as a classifier computes them, of some of the samples."""
        (cut,) = whole_groups((stop - start) // 4, 4, stop - start, CPU)
        with (
            compress(self.golden.model, compressor, blocks="all") as attachment,
            Sharing(self.golden.model, attachment, trials=True) as sharing,
        ):
            sharing.conditions(self.condition)
            some = slice(start, stop)
            groups = Groups.runs(0, stop - start, 4, CPU)
            batch = (self.classes[some], groups, self.spread[some], cut.together)
            return self(some, sharing.batch(*batch))


@both_models
@inner
def test_the_first_class_of_each_image_is_exact(kind, inner, request):
    trials = Trials(request.getfixturevalue(kind))
    exact, found = trials(), trials.shared(Anchored(inner))
    assert_close(found[::4], exact[::4], rtol=0, atol=1e-9)
    assert (found - exact).abs().amax((1, 2, 3))[1:4].min() > 1e-6


@both_models
@inner
def test_images_do_not_meet(kind, inner, request):
    trials = Trials(request.getfixturevalue(kind))
    whole = trials.shared(Anchored(inner))
    alone = [trials.shared(Anchored(inner), i, i + 4) for i in (0, 4, 8)]
    assert_close(whole, torch.cat(alone), rtol=0, atol=1e-9)


@both_models
@torch.no_grad()
def test_followers_add_what_their_anchor_lost(kind, request):
    """One block, restated around the model's own attention."""
    trials = Trials(request.getfixturevalue(kind))
    block = trials.architecture.blocks()[-1]
    attention, places = block.parts("self_attention")[0].module, [block.place]
    compressor = Anchored(ToMe(0.5, destinations="first"))
    seen: list[torch.Tensor] = []
    with compress(trials.golden.model, compressor, blocks=places) as attachment:
        plans = planned(attachment)
        take = partial(lambda seen, _, __, output: seen.append(output), seen)
        with Sharing(trials.golden.model, attachment, trials=True) as sharing:
            (cut,) = whole_groups(3, 4, 12, CPU)
            sharing.conditions(trials.condition)
            condition = sharing.batch(trials.classes, None, trials.spread, cut.together)
            given = []
            hooks = [
                attention.register_forward_pre_hook(
                    lambda _, args, kwargs: given.append((args, kwargs)),
                    with_kwargs=True,
                    prepend=True,
                ),
                attention.register_forward_hook(take),
            ]
            trials(condition=condition)
            for hook in hooks:
                hook.remove()
    (args, kwargs), found, anchors = given[-1], seen[-1], plans[-1].plan.queries
    y = args[0] if args else kwargs["hidden_states"]
    for image in range(3):
        own = anchors.at(torch.tensor([image]))
        full = attention(y[4 * image : 4 * image + 1])
        for k in range(4):
            tokens = y[4 * image + k : 4 * image + k + 1]
            short = own.undo(attention(own.apply(tokens)))
            lost = full - own.undo(attention(own.apply(y[4 * image : 4 * image + 1])))
            assert_close(found[4 * image + k], (short + lost)[0], rtol=0, atol=1e-9)


class Steps:
    """The steps of a sampling run, at fixed latents so that only attention's state differs."""

    def __init__(self, golden) -> None:
        self.golden = golden.double()
        self.time = architecture_of(golden.model).arguments[1]

    def __call__(self, t, **changes):
        batch = len(next(iter({**self.golden.inputs, **changes}.values())))
        return self.golden(**{**changes, self.time: torch.full((batch,), t)})


@both_models
@inner
def test_every_third_step_is_exact(kind, inner, request):
    steps = Steps(request.getfixturevalue(kind))
    times = [900, 800, 700, 600, 500]
    exact = [steps(t) for t in times]
    with compress(steps.golden.model, Anchored(inner, every=3), blocks="all"):
        found = [steps(t) for t in times]
    differ = [float((a - b).abs().max()) for a, b in zip(found, exact, strict=True)]
    assert max(differ[0], differ[3]) < 1e-9 < 1e-6 < min(differ[1], differ[2], differ[4])


@both_models
def test_followers_lose_less_than_without_an_anchor(kind, request):
    steps = Steps(request.getfixturevalue(kind))
    exact = steps(790)
    with compress(steps.golden.model, ToMe(0.5), blocks="all"):
        plain = steps(790)
    with compress(steps.golden.model, Anchored(ToMe(0.5)), blocks="all"):
        steps(800)
        anchored = steps(790)
    assert (anchored - exact).norm() < 0.5 * (plain - exact).norm()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda steps: steps(900), id="higher"),
        pytest.param(lambda steps: steps(800), id="the same"),
        pytest.param(lambda steps: steps(700, **steps.golden.one(0)), id="another shape"),
    ],
)
def test_a_new_run_begins_with_an_anchor(change, dit):
    steps = Steps(dit)
    exact = change(steps)
    with compress(steps.golden.model, Anchored(ToMe(0.5), every=10), blocks="all"):
        steps(900)
        followed = steps(800)
        begun = change(steps)
    assert_close(begun, exact, rtol=0, atol=1e-9)
    assert (followed - steps(800)).abs().max() > 1e-6


def test_a_step_that_failed_is_no_anchor(dit):
    steps = Steps(dit)
    exact = steps(700)

    def fail(*_):
        raise ArithmeticError("inside a forward")

    with compress(steps.golden.model, Anchored(ToMe(0.5)), blocks="all"):
        hook = steps.golden.model.transformer_blocks[-1].register_forward_pre_hook(fail)
        with pytest.raises(ArithmeticError):
            steps(800)
        hook.remove()
        assert_close(steps(700), exact, rtol=0, atol=1e-9)


@both_models
def test_every_step_an_anchor_changes_nothing(kind, request):
    steps = Steps(request.getfixturevalue(kind))
    exact = [steps(t) for t in (900, 800)]
    with compress(steps.golden.model, Anchored(ToMe(0.5), every=1), blocks="all"):
        found = [steps(t) for t in (900, 800)]
    assert_close(found, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
@pytest.mark.parametrize("inner", [ToMe(0.5), IEKVD(2)], ids=lambda c: type(c).__name__)
def test_other_families(family, inner):
    tiny = tiny_families.Tiny(family)
    time = tiny.architecture.arguments[1]
    later = {time: tiny.inputs[time] * 0.95}
    exact = [tiny(), tiny(**later)]
    with compress(tiny.model, inner, blocks="all"):
        plain = tiny(**later)
    with compress(tiny.model, Anchored(inner), blocks="all"):
        found = [tiny(), tiny(**later)]
    assert_close(found[0], exact[0], rtol=0, atol=1e-9)
    assert 1e-9 < (found[1] - exact[1]).norm() < 0.5 * (plain - exact[1]).norm()


def test_flops_are_a_mean_over_anchors_and_followers(dit):
    whole, short = count(dit.model), count(dit.model, ToMe(0.5), blocks="all")
    assert whole is not None and short is not None
    attention = sum(v for (_, kind), v in whole.breakdown.items() if kind == "self_attention")
    anchored = Anchored(ToMe(0.5), every=4)
    for given, share in ((None, 0.25), (0.1, 0.1)):
        found = count(dit.model, anchored, anchor_share=given, blocks="all")
        follower = short.total - short.matching
        want = follower + share * (short.matching + attention)
        assert found.total == pytest.approx(want, abs=1)
        assert found.matching == pytest.approx(share * short.matching, abs=1)


def test_shares_of_anchors(overrides, configure):
    def share(task, *chosen):
        kept = overrides if task == "classify" else [o for o in overrides if "task." not in o]
        every = [*kept, "compressor=anchored", f"task={task}", *chosen]
        job = Job(settings_of(configure(every)))
        return job.task.anchor_share(3, 10)

    assert share("classify") == 2 / (10 + 2)  # one timestep each, ten classes and then two
    assert share("classify", "task.decide_with=uncompressed") == 1 / 10
    assert share("generate", "task.steps=10") == 0.4
    race = Classify(strategy="race")
    assert race.anchor_share(3, 10) is None
    assert race.anchor_share(3, 10, pd.DataFrame({"samples": [[4, 2, 2], [6, 6, 4]]})) == 10 / 24


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ("sites=[self_attention,mlp]", "set sites to self_attention alone"),
        ("task=trace", "choose the compressor that it holds"),
        ("compile=default", "remove compile"),
        ("compressor.every=0", "every must be a whole number of at least 1"),
    ],
)
def test_what_runs_refuse(chosen, words, overrides, configure):
    kept = overrides
    if chosen.startswith("task="):
        kept = [o for o in overrides if not o.startswith(("task.samples", "task.keep"))]
    with pytest.raises(BiGainError, match=words):
        execute(configure([*kept, "compressor=anchored", chosen]))


def test_what_compress_refuses(dit):
    with pytest.raises(ValueError, match="not anchored itself"):
        Anchored(Anchored(ToMe(0.5)))
    with pytest.raises(ValueError, match="not anchored itself"):
        Anchored("tome")


@torch.no_grad()
def test_torch_compile_runs_it_uncompiled_or_refuses(dit):
    time = "timestep"
    later = {**dit.inputs, time: dit.inputs[time] - 5}

    def outputs(model):
        torch.compiler.reset()
        with compress(dit.model, Anchored(Cached(LGTM(0.5))), blocks="all"):
            return [model(**inputs).sample for inputs in (dit.inputs, later)]

    plain = outputs(dit.model)
    assert_close(outputs(torch.compile(dit.model, backend="eager")), plain)
    with pytest.raises(Exception, match="cannot trace"):
        outputs(torch.compile(dit.model, backend="eager", fullgraph=True))
