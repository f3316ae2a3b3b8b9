"""The library as people use it: the handle of compress(), names of compressors, and what is said.

What else may be done to a compressed model is in test_compatibility.py.
"""

import copy
import doctest
import inspect
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import (
    PyramidAttentionBroadcastConfig,
    StableDiffusionPipeline,
    apply_pyramid_attention_broadcast,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import bigain
from bigain import compressors
from bigain.compressors import (
    ABM,
    IEKVD,
    LGTM,
    Cached,
    Compose,
    Compressor,
    FrequencyFilter,
    SiTo,
    ToDo,
    ToMe,
)
from bigain.compressors.by_name import NAMES, compressor_of
from tests import tiny_pipelines
from tests.tiny_families import state

REPOSITORY = Path(__file__).parents[2]
both_models = pytest.mark.parametrize("kind", ["unet", "dit"])


@pytest.fixture
def golden(request):
    return lambda kind: request.getfixturevalue(kind)


def with_block(model: Any, compressor: Compressor, run: Callable[[], Tensor]) -> Tensor:
    with bigain.compress(model, compressor):
        return run()


# The handle


@both_models
@pytest.mark.parametrize("how", ["handle", "model", "pipeline"])
def test_compress_applies_at_once(kind, how, golden):
    model = golden(kind)
    before, plain = state(model.model), model()
    pipe = SimpleNamespace(**{"unet" if kind == "unet" else "transformer": model.model})
    want = with_block(model.model, LGTM(0.5), model)
    handle = bigain.compress(pipe, LGTM(0.5))
    assert handle.active
    assert torch.equal(model(), want) and not torch.equal(want, plain)
    if how == "handle":
        handle.remove()
        handle.remove()  # as of torch's own handles, the second time does nothing
    else:
        bigain.remove(model.model if how == "model" else pipe)
    assert not handle.active
    assert state(model.model) == before and torch.equal(model(), plain)


def test_a_forgotten_handle_is_found(unet):
    bigain.compress(unet.model, LGTM(0.5))
    with pytest.raises(RuntimeError, match=r"compressed already; .*bigain\.remove\(model\)"):
        bigain.compress(unet.model, ToMe(0.5))
    bigain.remove(unet.model)
    with pytest.raises(RuntimeError, match="UNet2DConditionModel is not compressed"):
        bigain.remove(unet.model)
    with pytest.raises(TypeError, match=r"takes a denoiser of diffusers \(UNet2DConditionModel"):
        bigain.remove(torch.nn.Linear(2, 2))


def test_removed_inside_its_block(unet):
    plain = unet()
    with bigain.compress(unet.model, LGTM(0.5)) as handle:
        unet()
        handle.remove()
        with bigain.compress(unet.model, ToMe(0.5)):
            want = unet()
        assert torch.equal(unet(), plain)
    assert not torch.equal(want, plain)


def test_a_failure_while_hooking_leaves_nothing(unet, monkeypatch):
    before = state(unet.model)

    def fail(*_: Any) -> None:
        raise ArithmeticError

    monkeypatch.setattr("bigain.compression.checks.checkpointing_modules", fail)
    with pytest.raises(ArithmeticError):
        bigain.compress(unet.model, LGTM(0.5))
    assert state(unet.model) == before


def test_its_words(unet, dit):
    sites = ["self_attention", "mlp"]
    with bigain.compress(unet.model, LGTM(0.5), blocks=[1, 2], sites=sites) as handle:
        unet()
    text = repr(handle)
    for part in (
        "LGTM(ratio=0.5, ",
        "on a UNet2DConditionModel (removed)",
        "sites: self_attention, mlp",
        "blocks: 6 of 7",
        "downsampling factors 1: 16x16 = 256 tokens -> 128",
        "downsampling factors 2: 8x8 = 64 tokens -> 32",
    ):
        assert part in text, text
    with bigain.compress(dit.model, ToDo(2), blocks=[1, 2]) as handle:
        dit()
        text = repr(handle)
    assert "on a DiTTransformer2DModel\n" in text
    assert "block indices 1, 2:" in text and "queries, " in text
    with bigain.compress(dit.model, ABM(threshold=0.5), blocks=[1]) as handle:
        dit()
        assert "block indices 1: the number of tokens depends on the data" in repr(handle)


@both_models
def test_flops_saved(kind, golden):
    model = golden(kind)
    with bigain.compress(model.model, LGTM(0.5), blocks="all") as handle:
        model()
        many = bigain.flops_saved(handle)
    few = bigain.flops_saved(bigain.compress(model.model, LGTM(0.25), blocks="all"))
    bigain.remove(model.model)
    assert few and many and 0 < few < many < 1
    with bigain.compress(model.model, ABM(threshold=0.5)) as handle:
        model()
        assert bigain.flops_saved(handle) is None


# Names, examples and wrong arguments


def test_public_names():
    names = set(compressors.__all__) | {"compress", "remove", "flops_saved"}
    assert set(bigain.__all__) == names
    assert all(getattr(bigain, name) is not None for name in names)
    assert bigain.LGTM is LGTM and names <= set(dir(bigain))
    assert LGTM() == LGTM(0.5)  # the paper's


def test_names_are_those_of_the_configs():
    for name, kind in NAMES.items():
        config = yaml.safe_load((REPOSITORY / f"configs/compressor/{name}.yaml").read_text())
        assert config["_target_"] == f"bigain.compressors.{kind.__name__}"


@pytest.mark.parametrize(
    ("given", "settings", "want"),
    [
        ("lgtm", {"ratio": 0.3}, LGTM(0.3)),
        ("L-GTM", {}, LGTM(0.5)),
        ("IE-KVD", {"factor": 4}, IEKVD(4)),
        ("SiTo", {"noise_alpha": 0}, SiTo(0.5, noise_alpha=0)),
        ("frequency", {"keep": "low"}, FrequencyFilter("low")),
    ],
)
def test_strings_for_objects(given, settings, want):
    assert compressor_of(given, settings) == want


def test_a_string_compresses_as_its_object(unet):
    want = with_block(unet.model, LGTM(0.25), unet)
    with bigain.compress(unet.model, "lgtm", ratio=0.25):
        assert torch.equal(unet(), want)


@pytest.mark.parametrize(
    ("given", "settings", "error", "message"),
    [
        ("lgmt", {}, ValueError, r"no compressor 'lgmt', did you mean lgtm\?; .*abm.*tome"),
        ("nothing", {}, ValueError, "no compressor 'nothing'; the names are abm"),
        (
            "lgtm",
            {"raio": 0.5},
            TypeError,
            r"no setting raio, did you mean ratio\?; it takes ratio",
        ),
        ("lgtm", {"block": "all"}, TypeError, r"no setting block, did you mean blocks\?"),
        ("lgtm", {"decide": "block_input"}, TypeError, r"did you mean decide_on\?"),
        ("lgtm", {"ratio": 0.8}, ValueError, r"ratio must lie in \[0, 0.75\]"),
        ("lgtm", {"ratio": None}, ValueError, r"ratio must lie in .* got None"),
        ("frequency", {}, TypeError, "frequency needs a value for keep; it takes keep, factor"),
        (LGTM, {}, TypeError, r"got the class LGTM; write LGTM\(\.\.\.\) .*lgtm"),
        (None, {}, TypeError, r"such as LGTM\(0\.5\), or one of the names .*; got None"),
        (0.5, {}, TypeError, "or one of the names abm.*; got 0.5"),
        (LGTM(0.5), {"block": "all"}, TypeError, r"got block, .*its own \(blocks, .*, decide_on\)"),
    ],
)
def test_what_is_no_compressor(given, settings, error, message, unet):
    with pytest.raises(error, match=message) as caught:
        bigain.compress(unet.model, given, **settings)
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy():
    assert LGTM(np.float32(0.7)) == LGTM(0.7) and repr(LGTM(np.float32(0.7))) == repr(LGTM(0.7))
    assert repr(ToDo(np.int64(2))) == repr(ToDo(2))
    assert repr(IEKVD(np.int32(2), alpha=np.float64(0.9))) == repr(IEKVD(2, alpha=0.9))
    assert type(ABM(ratio=np.float16(0.3)).ratio) is float
    with pytest.raises(ValueError, match=r"got 0\.8"):
        LGTM(np.float32(0.8))


@pytest.fixture(scope="module")
def pipe(tmp_path_factory) -> Any:
    """A tiny Stable Diffusion that draws an image in one step."""
    folder = tiny_pipelines.stable_diffusion(tmp_path_factory.mktemp("pipe"))
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)

    class Pipe(SimpleNamespace):
        def __call__(self, prompt: str) -> Any:
            return pipeline(prompt, num_inference_steps=1)

    return Pipe(unet=pipeline.unet)


EXAMPLES = ["compress", "remove", "flops_saved"] + [
    name
    for name in compressors.__all__
    if issubclass(getattr(compressors, name), Compressor) and name != "Compressor"
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name, pipe):
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(getattr(bigain, name)) or "", {"pipe": pipe}, name, None, None
    )
    assert test.examples, f"{name} has no example"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = doctest.DocTestRunner(verbose=False).run(test)
    assert not found.failed
    assert not pipe.unet._forward_pre_hooks


# What would pass for compressed


def test_a_block_without_a_forward_warns(unet, dit):
    with (
        pytest.warns(UserWarning, match="nothing was compressed: .*UNet2DConditionModel"),
        bigain.compress(unet.model, LGTM(0.5)),
    ):
        dit()  # another pipe
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with bigain.compress(unet.model, LGTM(0.5)):
            unet()
        with pytest.raises(ArithmeticError), bigain.compress(unet.model, LGTM(0.5)):
            raise ArithmeticError  # which says enough


@pytest.mark.parametrize("ran", [True, False])
def test_a_replaced_model_warns(ran, unet):
    pipe = SimpleNamespace(unet=unet.model)
    other = copy.deepcopy(unet.model)
    with (
        pytest.warns(UserWarning, match=r"pipe\.unet was replaced while it was compressed"),
        bigain.compress(pipe, LGTM(0.5)),
    ):
        if ran:
            unet()
        pipe.unet = other
    handle = bigain.compress(unet.model, LGTM(0.5))
    with pytest.raises(RuntimeError, match="not compressed"):
        bigain.remove(pipe)
    handle.remove()


def test_a_wrapped_model_is_not_replaced(unet):
    pipe = SimpleNamespace(unet=unet.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with bigain.compress(pipe, LGTM(0.5)):
            unet()
            pipe.unet = torch.compile(unet.model, backend="eager")


@pytest.mark.parametrize(
    "compressor", [LGTM(0.0), ToMe(0.001), SiTo(0), ABM(ratio=0.0), ToDo(1), IEKVD(1)], ids=repr
)
def test_compressing_nothing_warns(compressor, unet):
    with pytest.warns(
        UserWarning, match=r"leaves all tokens as they are \(.* 256\).*raise its ratio"
    ):
        bigain.compress(unet.model, compressor)
    bigain.remove(unet.model)


@pytest.mark.parametrize(
    "compressor",
    [LGTM(0.1), ToDo(2), FrequencyFilter("high"), ABM(threshold=0.0), Compose(LGTM(0), ToDo(2))],
    ids=repr,
)
def test_compressing_something_does_not_warn(compressor, unet):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bigain.compress(unet.model, compressor)
    bigain.remove(unet.model)


def meeting(model: Any, handle: Any, inputs: list[dict[str, Any]]) -> list[Any]:
    """The outputs of threads that each run a forward, and meet at every plan."""
    barrier = threading.Barrier(len(inputs), timeout=20)
    planner = handle.planner

    def meet(*arguments: Any) -> Any:
        barrier.wait()
        plan = planner(*arguments)
        barrier.wait()
        return plan

    outputs: list[Any] = [None] * len(inputs)

    def work(index: int) -> None:
        try:
            with torch.no_grad():
                outputs[index] = model(**inputs[index]).sample
        except Exception as error:
            outputs[index] = error

    handle.planner = meet
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.planner = planner
    return outputs


@both_models
@pytest.mark.parametrize(
    "compressor", [ToMe(0.5), Compose(LGTM(0.5), ToDo(2)), Cached(LGTM(0.5))], ids=repr
)
def test_threads_do_not_mix(kind, compressor, golden):
    model = golden(kind)
    inputs = [{**model.inputs, "timestep": torch.tensor([t] * 3)} for t in (25, 975)] + [
        {**model.one(1), "timestep": torch.tensor([500])}
    ]
    with bigain.compress(model.model, compressor, blocks="all") as handle:
        wanted = [model.model(**one).sample for one in inputs]
        for _ in range(3):
            for got, want in zip(meeting(model.model, handle, inputs), wanted, strict=True):
                if isinstance(got, Exception):
                    raise got
                assert torch.equal(got, want)
        handle.remove()


@both_models
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("compressor", [LGTM(0.5), ToDo(2)], ids=repr)
def test_replayed_outputs_are_refused(kind, before, compressor, golden):
    """Pyramid attention broadcast returns attn1's output of the step before."""
    model = golden(kind)
    twin = copy.deepcopy(model.model)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_block_identifiers=("attn1",),
        current_timestep_callback=lambda: 500,
    )
    if before:
        apply_pyramid_attention_broadcast(twin, config)
    with bigain.compress(twin, compressor), torch.no_grad():
        if not before:
            apply_pyramid_attention_broadcast(twin, config)
        twin(**model.inputs)
        with pytest.raises(RuntimeError, match="self_attention returned an output that it did not"):
            twin(**model.inputs)


# The model is its own again


def remove_forward(block: Any, saved: Any) -> None:
    block.forward = saved


@both_models
@pytest.mark.parametrize("how", ["forward", "accelerate", "diffusers"])
@pytest.mark.parametrize("late", [True, False])
def test_a_forward_put_inside_and_removed_after(kind, how, late, golden):
    original = golden(kind)
    model = copy.deepcopy(original.model)
    block = next(m for m in model.modules() if hasattr(m, "attn1"))
    plain = original()
    handle = bigain.compress(model, LGTM(0.5), blocks="all")
    undo = put(block, how)
    with torch.no_grad():
        model(**original.inputs)
    if late:
        handle.remove()
        undo()
    else:
        undo()
        handle.remove()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert torch.equal(twin(**original.inputs).sample, plain)
            for parameter in twin.parameters():
                parameter.zero_()
            assert not twin(**original.inputs).sample.any()
            assert torch.equal(model(**original.inputs).sample, plain)
    with torch.no_grad():  # and a model's own blocks run, not those of a twin
        for parameter in block.parameters():
            parameter.zero_()
        assert not torch.equal(model(**original.inputs).sample, plain)


def put(block: Any, how: str) -> Callable[[], None]:
    """Put a forward on a block; the result takes it off."""
    if how == "accelerate":
        from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

        add_hook_to_module(block, ModelHook())
        return lambda: remove_hook_from_module(block)
    if how == "diffusers":
        from diffusers.hooks import HookRegistry
        from diffusers.hooks import ModelHook as Hook

        registry = HookRegistry.check_if_exists_or_initialize(block)
        registry.register_hook(Hook(), "test")
        return lambda: registry.remove_hook("test")
    saved = block.forward
    block.forward = lambda *args, **kwargs: saved(*args, **kwargs)
    return lambda: remove_forward(block, saved)


# Derivatives


@pytest.fixture
def smooth(dit) -> Iterator[tuple[Callable[[Tensor], Tensor], Any, Tensor]]:
    """The model in float64 as a function of its latent, with attention that has all derivatives."""
    model = dit.double()
    inputs = model.one(0)
    latent = inputs.pop("hidden_states")
    with sdpa_kernel(SDPBackend.MATH):
        yield lambda z: model.model(z, **inputs).sample, model.model, latent


@pytest.mark.parametrize(
    "compressor",
    [LGTM(0.5), SiTo(0.5), Compose(LGTM(0.5), ToDo(2)), ABM(threshold=110.0)],
    ids=repr,
)
def test_derivatives_forwards_and_twice(compressor, smooth):
    f, model, x = smooth
    v, step = torch.ones_like(x), 1e-6
    with bigain.compress(model, compressor, blocks="all"):
        found = torch.func.jvp(f, (x,), (v,))[1]
        want = (f(x + step * v) - f(x - step * v)) / (2 * step)
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)

        def gradient(z: Tensor) -> Tensor:
            (g,) = torch.autograd.grad(f(z).square().sum(), z, create_graph=True)
            return g

        z = x.clone().requires_grad_()
        (twice,) = torch.autograd.grad((gradient(z) * v).sum(), z)
        ahead, behind = (gradient((x + s * v).requires_grad_()) for s in (step, -step))
        torch.testing.assert_close(twice, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-4)
