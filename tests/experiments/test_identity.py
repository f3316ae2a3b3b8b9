"""Which options a run's fingerprint holds, so that growing code still finds finished runs."""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from diffusers import DDIMScheduler
from omegaconf import OmegaConf

from bigain import compressors
from bigain.compressors import LGTM, Compose, Compressor, ToDo, ToMe
from bigain.compressors.iekvd import IEKVD, LinearAlpha
from bigain.errors import BiGainError
from bigain.experiments import schema
from bigain.store.identity import plain
from bigain.tasks.classify import Classify
from bigain.tasks.generate import Generate
from bigain.tasks.trace import Trace
from bigain.utils.paths import REPOSITORY


@dataclass(frozen=True)
class Grown(ToMe):
    """ToMe with an option that it did not have."""

    depth: int = 3


Grown.__name__ = "ToMe"


def test_what_stands_at_its_default_is_left_out():
    assert plain(LGTM(0.5)) == {"class": "LGTM", "ratio": 0.5}
    assert plain(LGTM(0.5, cells="official")) == {
        "class": "LGTM",
        "ratio": 0.5,
        "cells": "official",
    }
    assert plain(Classify()) == {"class": "Classify"}
    assert plain(Classify([5, 20])) == {"class": "Classify"}  # whose default is a tuple
    assert plain(Generate(guidance=4)) == {"class": "Generate"}
    both = plain(Compose(ToMe(0.5), IEKVD(2, LinearAlpha(clean=2.0))))
    alpha = {"class": "LinearAlpha", "clean": 2.0}
    parts = [{"class": "ToMe", "ratio": 0.5}, {"class": "IEKVD", "factor": 2, "alpha": alpha}]
    assert both == {"class": "Compose", "parts": parts}


@dataclass(frozen=True)
class Listed:
    values: list[int] = dataclasses.field(default_factory=lambda: [1, 2])


def test_a_default_may_come_from_a_factory():
    assert plain(Listed()) == {"class": "Listed"}
    assert plain(Listed([2])) == {"class": "Listed", "values": [2]}


def test_a_new_option_of_a_compressor_orphans_no_run(overrides, run, job, monkeypatch):
    chosen = [*overrides, "compressor=tome"]
    before = run(chosen)
    monkeypatch.setattr(compressors, "ToMe", Grown)
    assert isinstance(job(chosen).compressor, Grown)
    assert job(chosen).run_path == before.path
    assert run(chosen).finished() == before.finished()
    assert len(list(before.path.parent.iterdir())) == 1
    assert job([*chosen, "+compressor.depth=4"]).run_path != before.path


def test_a_score_of_another_definition_has_another_identity():
    """Runs made when `dft_amplitude` meant something else are not taken for this one's."""
    assert plain(LGTM(0.5, score="dft_amplitude"))["score"] == "dft_amplitude, definition 2"
    assert plain(Compose(LGTM(0.5, score="l2_norm"), ToDo(2)))["parts"][0]["score"] == "l2_norm"


@pytest.mark.parametrize(
    ("chosen", "recorded"),
    [
        ("compressor=tome", True),
        ("compressor=tome plans=per_class", False),
        ("compressor=tome compressor.destinations=unpaired", False),
        ("compressor=todo", False),  # which looks at no tokens
        ("compressor=none", False),
        ("compressor=tome task=trace", False),
        ("compressor=tome task=generate features=none", False),  # this model's guidance is 1
        ("compressor=tome task=generate features=none task.guidance=2", True),
    ],
)
def test_plans_are_named_where_sharing_them_matters(job, chosen, recorded):
    compression = job(chosen.split()).identity["compression"] or {}
    assert compression.get("plans") == ("shared" if recorded else None)


def test_settings_at_their_defaults_are_left_out(job):
    usual = ["compressor=tome", "plans=per_class", "decide_on=block_input"]
    identity = job(usual).identity
    assert identity.keys() == {"protocol", "model", "compression", "dataset", "task"}
    assert identity["compression"].keys() == {"compressor", "blocks"}
    more = ["seed=1", "dtype=bfloat16", "sites=[self_attention,mlp]"]
    other = job([*usual, *more])
    assert (other.identity["seed"], other.identity["dtype"]) == (1, "bfloat16")
    assert other.identity["compression"]["sites"] == ["mlp", "self_attention"]


def short_model(small_dit, folder, timesteps):
    """The small DiT with a schedule of another length."""
    shutil.copytree(small_dit, folder)
    DDIMScheduler(timesteps, beta_schedule="squaredcos_cap_v2").save_pretrained(
        folder / "scheduler"
    )
    return folder


@pytest.mark.parametrize("timesteps", [40, 1000])
@pytest.mark.parametrize(
    "chosen",
    ["compressor=iekvd compressor.alpha", "compressor=lgtm_iekvd compressor._args_.1.alpha"],
)
def test_alpha_follows_the_model_s_schedule(small_dit, tmp_path, job, timesteps, chosen):
    """Runs of other schedules than 1,000 timesteps, which had another alpha, are not reused."""
    folder = short_model(small_dit, tmp_path / "model", timesteps)
    given = ["task=generate", "features=none", f"model.path={folder}", "task.steps=10"]
    found = job([*given, *f"{chosen}={{noise:0.8,clean:1.2}}".split(), "blocks=all"])
    made = getattr(found.compressor, "parts", [found.compressor])[-1]
    alpha = made.alpha(torch.tensor([timesteps, 0]))
    torch.testing.assert_close(alpha, torch.tensor([0.8, 1.2]))
    assert ("timesteps" in str(found.identity["compression"])) == (timesteps != 1000)


def test_only_samplers_that_drew_other_images_get_a_new_identity(small_dit, job):
    def task(*settings):
        chosen = ["task=generate", "features=none", f"model.path={small_dit}", *settings]
        return job(chosen).identity["task"]

    assert "levels" not in task()
    assert "levels" not in task("task.sampler=euler", "task.spacing=linspace")
    assert "levels" not in task("task.sampler=ddpm", "task.steps=250", "task.spacing=linspace")
    assert task("task.spacing=linspace")["levels"] == "listed"
    assert task("task.steps=30")["levels"] == "listed"
    assert "levels" not in task("task.steps=30", "task.spacing=leading")


def test_steps_that_no_chain_can_take_are_refused_before_the_model_is_loaded(small_dit, job):
    chosen = ["task=generate", "features=none", f"model.path={small_dit}", "task.spacing=leading"]
    with pytest.raises(BiGainError, match="starts from pure noise at t=599"):
        _ = job([*chosen, "task.steps=600"]).identity


def test_the_schema_and_the_file_agree_about_these_defaults():
    written = OmegaConf.load(REPOSITORY / "configs" / "config.yaml")
    usual = schema.Config()
    for key in ("seed", "dtype", "sites"):
        assert written[key] == getattr(usual, key)


def defaults(kind: type) -> dict[str, object]:
    fields = [f for f in dataclasses.fields(kind) if "always_identity" not in f.metadata]
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


@pytest.mark.parametrize("kind", [LGTM, ToMe, compressors.SiTo, ToDo, IEKVD])
def test_a_strength_is_named_even_at_its_default(kind):
    (name, value), *_ = dataclasses.asdict(kind()).items()
    assert plain(kind()) == {"class": kind.__name__, name: value}
    assert {"ratio": 0.5, "factor": 2}[name] == value


# A default that changes gives old fingerprints another meaning. Add new options here, with the
# default that keeps results as they were; to change one, raise bigain.experiments.job.PROTOCOL.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            compressors.ABM,
            {"ratio": None, "threshold": None, "stride": 2, "aggregate": "max"},
        ),
        (
            LGTM,
            {
                "stride": 2,
                "cells": "paper",
                "destinations": "lowest",
                "score": "laplacian_l1",
                "merge": "mean",
                "proportional": False,
                "windows": 1,
                "protect": None,
            },
        ),
        (
            ToMe,
            {
                "stride": 2,
                "destinations": "random",
                "merge": "mean",
                "proportional": False,
                "windows": 1,
            },
        ),
        (ToDo, {"pool": "nearest", "place": "fixed", "queries": "full"}),
        (IEKVD, {"alpha": 0.9, "place": "fixed"}),
        (
            compressors.KVMerge,
            {
                "stride": 2,
                "destinations": "cycle",
                "score": "laplacian_l1",
                "merge": "mean",
                "proportional": False,
            },
        ),
        (compressors.Anchored, {"every": 3}),
        (LinearAlpha, {"noise": 0.8, "clean": 1.2, "timesteps": 1000}),
        (compressors.SiTo, {"stride": 2, "sim_beta": 1.0, "noise_alpha": 0.1}),
        (compressors.FrequencyFilter, {"factor": 2, "domain": "spectrum"}),
        (Compose, {}),
        (compressors.Cached, {}),
        (
            Classify,
            {
                "samples": (5, 20),
                "keep": (5, 1),
                "loss": "l2",
                "strategy": "staged",
                "agreement": 0.99,
                "decide_with": "compressed",
                "weights": None,
            },
        ),
        (Generate, {"sampler": "ddim", "steps": 50, "guidance": 4.0, "spacing": None}),
        (Trace, {"timesteps": (125, 525, 925), "bands": 8}),
    ],
)
def test_defaults_stay(kind: type[Compressor] | Callable[..., object], expected):
    assert defaults(kind) == expected
