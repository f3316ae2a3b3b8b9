"""What tests share: golden vectors (golden/README.md), a small DiT, its runs and traces."""

import copy
import gc
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DConditionModel
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.experiments.runner import execute
from bigain.store.runs import Run
from tests.family_cases import FAMILIES

if "PYTEST_XDIST_WORKER" in os.environ:
    # several processes share the cores; this is for those that tests start as well
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)

os.environ.setdefault("BIGAIN_CACHE", "off")  # tests leave nothing in the user's cache

GOLDEN = Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that none is left over for one process."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Leave the imported modules out of garbage collections, of which each run makes one."""
    gc.collect()
    gc.freeze()


@dataclass
class GoldenModel:
    """A tiny diffusers model, a batch of three inputs for it, and its outputs by compressor."""

    model: Any
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    def __call__(self, **changes: Any) -> Tensor:
        with torch.no_grad():
            return self.model(**{**self.inputs, **changes}).sample

    def one(self, index: int) -> dict[str, Tensor]:
        """The inputs of one sample."""
        return {name: value[index : index + 1] for name, value in self.inputs.items()}

    def double(self) -> "GoldenModel":
        """A copy in float64, where no decision hangs on rounding."""
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in self.inputs.items()}
        return GoldenModel(copy.deepcopy(self.model).double(), inputs, self.outputs)

    def hooks(self) -> int:
        """Forward hooks left on any submodule."""
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.model.modules())


def load_golden(name: str, kind: type) -> GoldenModel:
    tensors = load_file(GOLDEN / f"{name}.safetensors")

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    model = kind.from_config(json.loads((GOLDEN / f"{name}.json").read_text())).eval()
    model.load_state_dict(part("w."))
    inputs = part("in.")
    if kind is DiTTransformer2DModel:
        inputs["hidden_states"] = inputs.pop("sample")
    return GoldenModel(model, inputs, part("out."))


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Where the outputs of the reference implementations are."""
    return GOLDEN


@pytest.fixture(scope="session")
def operators() -> dict[str, Tensor]:
    """The tensors of golden/operators.safetensors."""
    return load_file(GOLDEN / "operators.safetensors")


@pytest.fixture(scope="session")
def _unet() -> GoldenModel:
    return load_golden("tiny_unet", UNet2DConditionModel)


@pytest.fixture(scope="session")
def _dit() -> GoldenModel:
    return load_golden("tiny_dit", DiTTransformer2DModel)


@pytest.fixture
def unet(_unet: GoldenModel) -> Iterator[GoldenModel]:
    yield _unet
    assert not _unet.hooks(), "the test left hooks on the model"


@pytest.fixture
def dit(_dit: GoldenModel) -> Iterator[GoldenModel]:
    yield _dit
    assert not _dit.hooks(), "the test left hooks on the model"


@pytest.fixture(scope="session")
def save_dit() -> Callable[..., Path]:
    """Saves a DiT of random weights, 64 tokens unless told otherwise, as a pipeline's folder."""

    def save(folder: Path, schedule: str = "squaredcos_cap_v2", **changes: Any) -> Path:
        torch.manual_seed(0)
        settings = {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "in_channels": 1,
            "out_channels": 1,
            "sample_size": 32,
            "patch_size": 4,
            "num_embeds_ada_norm": 10,
        }
        DiTTransformer2DModel(**{**settings, **changes}).save_pretrained(folder / "transformer")
        DDIMScheduler(beta_schedule=schedule).save_pretrained(folder / "scheduler")
        return folder

    return save


@pytest.fixture(scope="session")
def small_dit(save_dit: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model's format, in small."""
    return save_dit(tmp_path_factory.mktemp("dit"))


@pytest.fixture(scope="session")
def configure() -> Callable[[list[str]], DictConfig]:
    """What ``python run.py`` makes of its arguments; experiments/test_composition.py sees to it."""
    return composed


@pytest.fixture
def overrides(small_dit: Path, tmp_path: Path) -> list[str]:
    """Twelve images classified in two stages, by a model of random weights."""
    return [
        f"model.path={small_dit}",
        "blocks=all",
        f"results={tmp_path}",
        "task.samples=[1,2]",
        "task.keep=[2,1]",
        "limit=12",
    ]


@pytest.fixture(scope="session")
def run(configure: Callable[[list[str]], DictConfig]) -> Callable[[list[str]], Run | None]:
    return lambda overrides: execute(configure(overrides))


@pytest.fixture(scope="session")
def job(configure: Callable[[list[str]], DictConfig]) -> Callable[[list[str]], Job]:
    return lambda overrides: Job(settings_of(configure(overrides)))


@pytest.fixture
def traced() -> Callable[..., pd.DataFrame]:
    """Random rows of images 0, 1, ... with the given columns in place of the random ones."""

    def make(images: int = 3, **given: Any) -> pd.DataFrame:
        rng = np.random.default_rng(0)
        about: dict[str, Any] = {
            "timesteps": [100, 500],
            "blocks": [1, 4, 5],
            "heights": [4, 4, 2],
            "widths": [6, 6, 3],
            "fields": ["queries"],
            "pruned": False,
            "image_shape": [8, 12, 3],
        }
        about |= {key: value for key, value in given.items() if key in about}
        times, blocks = len(about["timesteps"]), len(about["blocks"])
        fields, bands = len(about["fields"]), 10
        tokens = times * sum(h * w for h, w in zip(about["heights"], about["widths"], strict=True))
        rows = []
        for i in range(images):
            row = {
                "image_id": str(i),
                "labels": [i],
                **about,
                "slots": rng.integers(0, 6, tokens),
                "roles": rng.integers(0, 3, tokens),
                "before": rng.uniform(1, 2, times * blocks * bands),
                "after": rng.uniform(1, 2, times * blocks * fields * bands),
                "product": rng.uniform(0, 1, times * blocks * fields * bands),
                "image": rng.integers(0, 256, int(np.prod(about["image_shape"]))),
            }
            rows.append({**row, **given})
        return pd.DataFrame(rows)

    return make


@pytest.fixture(scope="module")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline, by its name in `FAMILIES`; made once per file."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: FAMILIES[name].make(root / name, **FAMILIES[name].settings))


@pytest.fixture
def dynamo() -> Iterator[Any]:
    """torch._dynamo, which remembers nothing of other tests."""
    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()
