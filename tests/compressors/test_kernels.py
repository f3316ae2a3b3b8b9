"""The Triton kernels against the torch paths, on the CPU by Triton's interpreter, and on a GPU."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import isqrt
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from bigain.compressors import LGTM, Compressor, TokenGrid, TokenMap, ToMe, kernels
from bigain.compressors.matching import cell_tokens, nearest_destination, split_cells
from bigain.compressors.spectrum import score
from bigain.compressors.tokens import precise

pytestmark = pytest.mark.skipif(not kernels.INSTALLED, reason="triton has no build for it")
KERNELS = ("assign", "laplacian_l1", "nearest", "slot_means", "smoothest")
calls: list[str] = []  # of the kernels in the interpreter
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
types = pytest.mark.parametrize("dtype", kernels.TYPES, ids=lambda t: str(t).split(".")[1])


@pytest.fixture(scope="module")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    """A process where Triton interprets its kernels on the CPU.

    Triton must know before it is imported, and in this process it may be already.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with patch.dict(os.environ, TRITON_INTERPRET="1"):
            pool.submit(torch.set_num_threads, 1).result()
        yield pool


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, cuda])])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the kernels run; on the CPU, in the interpreter."""
    if request.param == "cpu":
        pool = request.getfixturevalue("interpreter")

        def there(kernel: Callable[..., Any], x: Tensor, *others: Any) -> Any:
            if kernel.__name__ == "nearest":
                x = precise(x)  # the interpreter's tl.dot takes bfloat16 for integers
            calls.append(kernel.__name__)
            return pool.submit(kernel, x, *others).result()

        for name in KERNELS:
            monkeypatch.setattr(kernels, name, partial(there, getattr(kernels, name)))
    return request.param


def use(wanted: bool) -> Any:
    """Take the kernels, or the torch paths."""
    return patch.object(kernels, "usable", lambda x: wanted)


def tokens(device: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[B, N, C], alike where near, as hidden states are."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cumsum(1)
    return (x - x.mean(1, keepdim=True)).div(4).to(device, dtype)


def behind_convolution(x: Tensor) -> Tensor:
    """As it lies in memory there, channels first."""
    return x.mT.contiguous().mT


def parted(device: str, batch: int, many: int, few: int) -> tuple[Tensor, Tensor]:
    """Sources and destinations, token indices in no order."""
    generator = torch.Generator().manual_seed(1)
    mixed = torch.stack([torch.randperm(many + few, generator=generator) for _ in range(batch)])
    return mixed[:, :many].to(device), mixed[:, many:].to(device)


def cosine(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of tokens ``a`` and ``b`` [B, S] of x, in float64."""
    rows = torch.arange(len(x), device=x.device).unsqueeze(1)
    x = x.double()
    return torch.cosine_similarity(x[rows, a], x[rows, b], dim=-1)


# --- what they compute


def check_nearest(x: Tensor, sources: Tensor, destinations: Tensor) -> None:
    with use(True):
        best, match = nearest_destination(x, sources, destinations)
    with use(False):
        want, want_match = nearest_destination(x, sources, destinations)
    assert best.dtype == want.dtype and match.dtype == want_match.dtype
    assert_close(best, want, rtol=0, atol=2e-6)
    # no decision differs but where rounding alone tells two destinations apart
    other = match != want_match
    assert other.float().mean() < 0.01
    assert (match.unsqueeze(2) == destinations.unsqueeze(1)).any(2).all()
    near = [cosine(x, sources, chosen)[other] for chosen in (match, want_match)]
    assert_close(*near, rtol=0, atol=2e-6)


@types
@pytest.mark.parametrize(
    "shape", [(2, 30, 10, 12), (2, 130, 129, 70), (3, 1, 1, 1), (1, 3, 200, 65)], ids=str
)
def test_nearest(device, dtype, shape):
    batch, many, few, channels = shape
    x = tokens(device, batch, many + few, channels, dtype=dtype)
    check_nearest(behind_convolution(x), *parted(device, batch, many, few))


@types
def test_the_first_of_equal_destinations_wins(device, dtype):
    """Tokens along the axes: whatever the rounding, equals are equal."""
    axes = torch.eye(20, device=device, dtype=dtype)
    x = torch.cat([axes[:7], axes.repeat(16, 1) * 2]).unsqueeze(0)
    sources = torch.arange(7, device=device).unsqueeze(0)
    up, down = torch.arange(7, 327, device=device), torch.arange(326, 6, -1, device=device)
    last = (300, 301, 302, 303, 304, 305, 306)  # of 20, 20 + 7 and so on
    for destinations, first in ((up, range(7, 14)), (down, (i + 7 for i in last))):
        best, match = kernels.nearest(x, sources, destinations.unsqueeze(0))
        assert match[0].tolist() == list(first)
        assert (best == 1).all()


def test_nan_stays_in_its_sample(device):
    """And indices stay in range."""
    x = tokens(device, 2, 40, 8)
    x[0] = torch.nan
    x[1, :4] = 0
    sources, destinations = parted(device, 2, 30, 10)
    best, match = kernels.nearest(x, sources, destinations)
    assert best[0].isnan().all() and not best[1].isnan().any()
    assert (match.unsqueeze(2) == destinations.unsqueeze(1)).any(2).all()
    scores = kernels.laplacian_l1(x, 5, 8)
    assert scores[0].isnan().all() and not scores[1].isnan().any()


def check_laplacian(x: Tensor, grid: TokenGrid) -> None:
    with use(True):
        found = score("laplacian_l1", x, grid)
    with use(False):
        want = score("laplacian_l1", x, grid)
    assert found.dtype == want.dtype
    assert_close(found, want, rtol=2e-6, atol=1e-5)


@types
@pytest.mark.parametrize("shape", [(4, 6, 12), (5, 7, 130), (1, 3, 3), (3, 1, 1)], ids=str)
def test_laplacian(device, dtype, shape):
    height, width, channels = shape
    x = tokens(device, 2, height * width, channels, dtype=dtype)
    check_laplacian(x, TokenGrid(height, width))
    check_laplacian(behind_convolution(x), TokenGrid(height, width))


def check_means(y: Tensor, made: TokenMap) -> None:
    with use(True):
        found = made.apply(y)
        assert torch.equal(made.apply(y), found)
    with use(False):
        want = made.apply(y.double())
    assert found.dtype == y.dtype
    # the interpreter cuts bfloat16 off instead of rounding it
    assert_close(found.double(), want, rtol=torch.finfo(y.dtype).eps, atol=2e-6)


@types
@pytest.mark.parametrize("shape", [(40, 20, 12), (33, 2, 700), (5, 9, 1), (300, 1, 3)], ids=str)
def test_means(device, dtype, shape):
    """Some of many slots for few tokens are empty."""
    count, slots, channels = shape
    drawn = torch.randint(slots, (2, count), generator=torch.Generator().manual_seed(1))
    y = tokens(device, 2, count, channels, dtype=dtype)
    check_means(behind_convolution(y), TokenMap(drawn.to(device), slots))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_slots_do_not_lose_addends(device, dtype):
    made = TokenMap(torch.zeros(1, 4096, dtype=torch.int64, device=device), 1)
    with use(True):
        found = made.apply(torch.ones(1, 4096, 2, dtype=dtype, device=device))
    assert found.flatten().tolist() == [1, 1]


@types
@pytest.mark.parametrize("highest", [False, True])
@pytest.mark.parametrize(("shape", "stride"), [((4, 6, 12), 2), ((6, 9, 130), 3), ((2, 2, 5), 2)])
def test_smoothest(device, dtype, highest, shape, stride):
    height, width, channels = shape
    grid = TokenGrid(height, width)
    x = tokens(device, 2, grid.tokens, channels, dtype=dtype)
    x[1] = x[1, :1]  # inner tokens tie, of which the first must win
    found = kernels.smoothest(behind_convolution(x), height, width, stride, highest)
    cells = score("laplacian_l1", x, grid)[:, cell_tokens(grid, stride, x.device)]
    want = split_cells(cells.argmax(-1) if highest else cells.argmin(-1), grid, stride)
    for ours, theirs in zip(found, want, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("count", "few", "merged"), [(300, 75, 200), (24, 6, 12), (5, 1, 4)])
@pytest.mark.parametrize("merge", ["mean", "keep", "mlerp"])
def test_assignment(device, count, few, merged, merge):
    """Of many tokens to few destinations and to one, the map is that of the torch path."""
    destinations, sources = (
        p[:, :n]
        for p, n in zip(
            reversed(parted(device, 3, count - few, few)), (few, count - few), strict=True
        )
    )
    drawn = torch.Generator().manual_seed(2)
    match = torch.randint(few, sources.shape, generator=drawn).to(device)
    match[1] = 0
    match = destinations.gather(1, match)
    order = torch.rand(sources.shape, generator=drawn).argsort(1).to(device)
    made = TokenMap.assigned(kernels.assign(order[:, :merged], sources, match, count), merge)
    whole = torch.arange(count, device=device).repeat(3, 1)
    whole.scatter_(1, sources.gather(1, order[:, :merged]), match.gather(1, order[:, :merged]))
    want = TokenMap.from_destinations(whole, count - merged, merge)
    assert torch.equal(made.slots, want.slots) and torch.equal(made.counts, want.counts)
    assert torch.equal(made.destinations, want.destinations)
    x = tokens(device, 3, count, 7)
    assert torch.equal(made.apply(x), want.apply(x))
    assert torch.equal(made.undo(made.apply(x)), want.undo(want.apply(x)))
    some = torch.tensor([2, 0, 2, 1], device=device)
    for one, other in ((made, want), (made.at(some), want.at(some))):
        for ours, theirs in zip(one._bags(), other._bags(), strict=True):
            assert torch.equal(ours, theirs)


class Launches(TorchDispatchMode):
    """Counts the operators that launch a kernel, which those that only view a tensor do not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = call(*args, **(kwargs or {}))
        name = call.overloadpacket.__name__
        launched = isinstance(found, Tensor | tuple) and not call.is_view
        if launched and not name.startswith(("empty", "new_empty", "_unsafe_view")):
            self.names.append(name)
        return found


def launches(compressor: Compressor, x: Tensor) -> list[str]:
    """Those of plan, apply and undo once constants are made, the kernels' first."""
    grid = TokenGrid(isqrt(x.shape[1]), isqrt(x.shape[1]))
    for _ in range(2):
        calls.clear()
        with Launches() as counted, torch.no_grad():
            made = compressor.plan(x, grid).queries
            made.undo(made.apply(x))
    return [*calls, *counted.names]


@pytest.mark.parametrize("device", ["cpu"], indirect=True)
def test_lgtm_takes_six_launches(device):
    with use(True):
        found = launches(LGTM(0.5), tokens(device, 2, 64, 8))
    assert found == ["smoothest", "nearest", "assign", "slot_means", "topk", "index_select"]


@pytest.mark.parametrize(
    ("compressor", "most"), [(LGTM(0.5), 50), (ToMe(0.5, destinations="first"), 40)]
)
def test_no_large_batch_takes_more_launches_than_a_small_one(compressor, most):
    """By the torch paths of devices other than a CPU, at the width of Stable Diffusion 2.0."""
    calls.clear()
    shapes = [torch.empty(b, 4096, 320, device="meta", dtype=torch.bfloat16) for b in (1, 16)]
    small, large = (launches(compressor, x) for x in shapes)
    assert small == large and 20 < len(large) <= most


@types
def test_lgtm_decides_the_same(device, dtype):
    grid = TokenGrid(6, 9)
    x = tokens(device, 2, grid.tokens, 20, dtype=dtype)
    with use(False):
        want = LGTM(0.5).plan(x, grid).queries
    with use(True):
        made = LGTM(0.5).plan(x, grid).queries
    assert torch.equal(made.slots, want.slots)


@pytest.mark.gpu
@cuda
@types
@pytest.mark.parametrize("channels", [320, 640, 1152])
@pytest.mark.parametrize("sides", [(64, 64), (63, 65), (32, 32), (16, 16)], ids=str)
def test_at_size(dtype, channels, sides):
    grid = TokenGrid(*sides)
    x = tokens("cuda", 2, grid.tokens, channels, dtype=dtype)
    few = grid.tokens // 4
    check_laplacian(x, grid)
    check_nearest(x, *parted("cuda", 2, grid.tokens - few, few))
    check_means(x, LGTM(0.5).plan(x, grid).queries)


# --- who takes them


@dataclass
class Gpu:
    major: int = 9


def asked(monkeypatch: pytest.MonkeyPatch, major: int = 9, **changes: Any) -> bool:
    found = {"is_cuda": True, "dtype": torch.bfloat16, "requires_grad": False, "device": "cuda:0"}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Gpu(major))
    monkeypatch.setattr(kernels, "ASKED", True)
    return kernels.usable(SimpleNamespace(**{**found, **changes}))


def test_who_takes_the_kernels(monkeypatch):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert asked(monkeypatch, dtype=dtype)
    assert not asked(monkeypatch, is_cuda=False)
    assert not asked(monkeypatch, dtype=torch.float64)
    assert not asked(monkeypatch, major=7)
    assert not asked(monkeypatch, requires_grad=True)
    with torch.no_grad():
        assert asked(monkeypatch, requires_grad=True)
    monkeypatch.setattr(kernels, "INSTALLED", False)
    assert not asked(monkeypatch)


def test_nothing_else_needs_triton():
    code = "import sys; sys.modules['triton'] = None; import bigain.compressors.tokens"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_they_are_off_unless_asked_for(monkeypatch):
    try:
        for value in ("0", "1"):
            monkeypatch.setenv("BIGAIN_KERNELS", value)
            assert importlib.reload(kernels).ASKED is (value == "1")
    finally:
        monkeypatch.undo()
        importlib.reload(kernels)
    assert not kernels.ASKED or os.environ.get("BIGAIN_KERNELS") == "1"


def test_no_cpu_or_meta_tensor_takes_them():
    assert not kernels.usable(torch.ones(1)) and not kernels.usable(torch.ones(1, device="meta"))


@pytest.mark.gpu
@cuda
def test_gradient_takes_the_torch_path(monkeypatch):
    monkeypatch.setattr(kernels, "ASKED", True)
    y = tokens("cuda", 1, 16, 4).requires_grad_()
    made = TokenMap(torch.zeros(1, 16, dtype=torch.int64, device="cuda"), 1)
    made.undo(made.apply(y)).sum().backward()
    assert_close(y.grad, torch.ones_like(y))


def test_compile_takes_the_torch_paths(monkeypatch):
    """Of tensors that claim to be on a GPU and hold nothing."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Gpu)
    monkeypatch.setattr(kernels, "ASKED", True)

    def shorten(x: Tensor) -> Tensor:
        return LGTM(0.5).plan(x, TokenGrid(8, 8)).queries.apply(x)

    torch._dynamo.reset()
    with FakeTensorMode():
        x = torch.empty(2, 64, 8, device="cuda")
        assert kernels.usable(x)
        made = torch.compile(shorten, backend="eager", fullgraph=True)(x)
    torch._dynamo.reset()
    assert made.is_cuda and made.shape == (2, 32, 8)


# --- what Triton makes of them


@pytest.mark.skipif(torch.version.hip is not None, reason="for CUDA")
@pytest.mark.parametrize(("architecture", "shared"), [(80, 99), (90, 227)])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "bf16"])
def test_they_compile_for_gpus(architecture, shared, kind):
    """Within ``shared`` KiB of memory, all that any GPU of the generation has."""
    pytest.importorskip("triton", minversion="3.3")
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bigain.compressors.kernels import operators

    def build(kernel: Any, arguments: str, warps: int, **sizes: int) -> Any:
        signature = dict(zip(kernel.arg_names, arguments.split(), strict=False))
        source = ASTSource(kernel, signature | dict.fromkeys(sizes, "constexpr"), sizes)
        made = compile(source, GPUTarget("cuda", architecture, 32), {"num_warps": warps})
        assert made.metadata.shared <= shared * 1024
        return made.asm["ptx"]

    x, ints = f"*{kind} ", "i32 i32 i32 "
    blocks = {"BLOCK_S": 128, "BLOCK_D": 128, "BLOCK_C": 32 if kind == "fp32" else 64}
    nearest = operators._nearest, f"{x}*i64 *i64 *fp32 *i64 i32 {ints}", 8
    ptx = build(*nearest, **blocks)
    assert "tf32" not in ptx and ("mma" in ptx) == (kind != "fp32")
    roughness = operators._laplacian_l1, f"{x}*fp32 {ints}", 4
    build(*roughness, BLOCK_N=16, BLOCK_C=128)
    means = operators._slot_means, f"{x}*i64 *i64 *i64 {x}i32", 4
    build(*means, BLOCK_K=4, BLOCK_C=512)
    smoothest = operators._smoothest, f"{x}*i64 *i64 {ints}", 4
    cells = {"STRIDE": 2, "PLACES": 4, "BLOCK_K": 4, "BLOCK_C": 128}
    for highest in (False, True):
        build(*smoothest, **cells, HIGHEST=highest)
    build(*smoothest, STRIDE=3, PLACES=16, BLOCK_K=1, BLOCK_C=128, HIGHEST=False)
    build(operators._assign, "*i64 " * 9 + ints, 4, BLOCK=128)
    # a size of 1 is a constant to Triton
    build(*nearest, **blocks, N=1, C=1, S=1, D=1)
    build(*roughness, BLOCK_N=16, BLOCK_C=128, height=1, width=1, C=1)
    build(*roughness, BLOCK_N=16, BLOCK_C=128, height=1)
    build(*means, BLOCK_K=4, BLOCK_C=1, C=1)
