"""Every setting given every kind of value: it runs, or one line names what was given."""

import copy
from functools import cache
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError
from bigain.experiments.composition import CONFIGS, composed
from bigain.experiments.configuration import settings_of, shard_of
from bigain.experiments.job import Job
from bigain.experiments.schema import GROUPS, explain
from bigain.utils.devices import device_of

VALUES = (
    "null", "3", "-1", "1.5", "nan", "inf", "1e400", "100000000000000000000", "true", "no",
    "'false'", "maybe", "[]", "[1]", "[1.0,2.0]", "[null]", "[a,b]", "{}", "{a: 1}", "'a/b'",
    "'a b'", "'../x'", "ünïcode", "''", "'  '", "'a\\nb'", "'x\0y'",
)  # fmt: skip
# options whose classes another option has already
SAME = ("dit_xl2_256", "dit_xl2_512", "sd15", "sd2", "sd21", "imagenet1k", "none")


def settings() -> list[tuple[str, ...]]:
    """Overrides up to a key whose value is to be given: that of every class of every group."""
    found = []
    for group in GROUPS:
        for file in sorted((CONFIGS / group).glob("*.yaml")):
            if file.stem in SAME:
                continue
            drawn = ["task=generate"] if group in ("features", "logger") else []
            chosen = [*drawn, f"{group}={file.stem}"]
            node: Any = OmegaConf.to_container(OmegaConf.load(file))
            found += [(*chosen, f"{key}=") for key in paths(node, group)]
            found += [(*chosen, f"+{group}.{key}=") for key in ("_args_", "extra", "_partial_")]
    top: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "config.yaml"))
    for key in paths(top, ""):
        if not key.startswith(("hydra", "defaults", "experiment")):
            found.append(("task=generate", f"{key}="))
            found.append(("compressor=lgtm", f"{key}="))
    return found


def paths(node: Any, prefix: str) -> list[str]:
    found = []
    for key, value in node.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        found += [path, *(paths(value, path) if isinstance(value, dict) else [])]
    return found


@cache
def base(overrides: tuple[str, ...]) -> DictConfig:
    return composed(overrides)


def given(chosen: tuple[str, ...], text: str) -> DictConfig:
    """As `composed`, without Hydra's slow way to its own errors."""
    override = OverridesParser.create().parse_overrides([chosen[-1] + text])[0]
    cfg = copy.deepcopy(base(chosen[:-1]))
    OmegaConf.set_struct(cfg, not override.is_add())
    OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
    OmegaConf.set_struct(cfg, True)
    return cfg


def problem(cfg: Any) -> str | None:
    """What is said of a configuration, in one line; None if it can run."""
    try:
        found = settings_of(cfg(), shard_of(cfg()))
        device_of(found.setup.device)
        if found.task.schema:
            job = Job(found)
            assert job.run_path.parent == found.setup.results / "runs"
    except (BiGainError, HydraException, OmegaConfBaseException) as error:
        said = explain(error)
        assert said and "\n" not in said
        return said
    return None


EVERY = settings()
SHARE = 12  # each value is given to one setting of 12, and each setting meets two or three values


@pytest.mark.parametrize("value", range(len(VALUES)))
@pytest.mark.filterwarnings("ignore")
def test_any_value_runs_or_is_one_line(value, monkeypatch):
    """Each value for a share of the settings, and each setting with a share of the values."""
    monkeypatch.setattr("bigain.utils.hub.snapshot_download", offline)
    text = VALUES[value]
    said = [problem(lambda c=chosen: given(c, text)) for chosen in EVERY[value % SHARE :: SHARE]]
    assert sum(line is not None for line in said) > len(said) / 3


def offline(*_: object, **__: object) -> None:
    raise OSError("offline")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.allow_few=no"], "evaluation.allow_few must be true or false; got 'no'"),
        (["evaluation.allow_few=off"], "evaluation.allow_few must be true or false; got 'off'"),
        (["evaluation.allow_few='false'"], "evaluation.allow_few must be true or false; got 'false'"),  # noqa: E501
        (["evaluation.allow_few=maybe"], "evaluation.allow_few must be true or false; got 'maybe'"),
        (["evaluation.allow_few=3"], "evaluation.allow_few must be true or false; got 3"),
        (["task=profile", "task.measure=off"], "task.measure must be true or false; got 'off'"),
        (["blocks=1"], "blocks must be default, all or a list such as [0, 1]; got 1"),
        (["blocks=null"], "blocks must be default, all or a list such as [0, 1]; got None"),
        (["blocks=most"], "blocks must be default, all or a list such as [0, 1]; got most"),
        (["model.name=a/b"], "model.name takes letters, digits and _ . + = -"),
        (["compressor.name='a b'"], "compressor.name takes letters, digits and _ . + = -"),
        (["task.samples=[1.0,2.0]"], "task.samples must be a list of whole numbers; got [1.0, 2.0]"),  # noqa: E501
        (["task.keep=[2.5,1]"], "task.keep must be a list of whole numbers; got [2.5, 1]"),
        (["+task._args_=3"], "task._args_ must be a list of values; got 3"),
        (["device=meta"], "device=meta cannot be used"),
        (["task={_target_: null}"], "task._target_ must name a class"),
        (["task._target_=3"], "task._target_ must be text or null; got 3"),
        (["task._target_=bigain.backbones.DiT"], "is not a key of bigain.backbones.DiT"),
        (["compressor._target_=builtins.dict"], "compressor._target_=builtins.dict"),
        (["task=generate", "limit=1000000000000"], "limit must lie in 1..1000000"),
        (["task=generate", "features=none", "start=1000000000000", "limit=1"], "is number 9999"),
        (["task.samples=[1,1000000000]"], "task.samples asks for 1000000000 timesteps"),
        (["task=trace", "compressor=lgtm", "task.timesteps=[1000]"], "the last is 999"),
        (["task=trace", "compressor=lgtm", "task.bands=1000000"], "bands must be at most 1000"),
        (["evaluation.replicates=1000000000", "task=generate"], "replicates must be at most"),
        (["batch_size=1000000000000"], "batch_size must be at most 1000000"),
        (["sites=[]"], "sites is empty; name some of"),
        (["dataset.root=3"], "quote it twice: dataset.root=\"'3'\""),
        (["compressor=tome", "compressor.ratio=true"], "ratio must be a number; got true"),
        (["compressor=sito", "compressor.sim_beta=nan"], "sim_beta must be a number; got nan"),
        (["results='  '"], "results is empty"),
    ],
)  # fmt: skip
def test_what_is_refused_names_what_is_accepted(overrides, message):
    assert message in (problem(lambda: composed(overrides)) or "it can run")


@pytest.mark.parametrize("group", ["model", "dataset", "task"])
def test_a_group_without_an_option_is_named(group):
    assert f"{group} is empty; choose one" in (problem(lambda: composed([f"~{group}"])) or "")
