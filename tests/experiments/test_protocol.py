"""protocol= changes how images are drawn and scored, and nothing else."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from bigain.backbones import build_sampler
from bigain.errors import BiGainError
from bigain.experiments import configuration
from bigain.experiments.targets import build
from bigain.tasks.generate import Generate
from bigain.utils.paths import REPOSITORY

TASKS = sorted(p.stem for p in (REPOSITORY / "configs" / "task").glob("*.yaml"))


ADM = ["protocol=adm", "task=generate", "model=dit_xl2_256"]


def plain(cfg: Any) -> Any:
    return OmegaConf.to_container(cfg)


def test_adm_generates(configure):
    cfg = configure([*ADM, "dataset=imagenet1k"])
    configuration.check(cfg)
    assert build(cfg, "task") == Generate("ddpm", 250, 1.5, "linspace")
    assert cfg.limit == 50000
    assert cfg.evaluation.reference == "adm-imagenet256"
    assert build(cfg, "features").name == "inception-legacy_pytorch"


@pytest.mark.parametrize(
    "data",
    [
        ["dataset=fashion_mnist"],
        ["dataset=pets"],
        ["dataset=coco2017"],
        ["dataset=imagenet100"],
        ["dataset=imagenet1k", "dataset.subset=2000"],
        ["dataset=imagenet1k", "dataset.classes=imagenet100"],
    ],
)
def test_adm_is_for_all_of_imagenet(configure, data):
    with pytest.raises(BiGainError, match="leave out protocol=adm") as caught:
        configuration.check(configure([*ADM, *data]))
    given = data[0] if "classes" in data[-1] else " ".join(data)
    assert f"got {given};" in str(caught.value) and "\n" not in str(caught.value)
    configuration.check(configure([*ADM, *data, "task=classify"]))
    configuration.check(configure([*ADM, *data, "evaluation.reference=mine"]))


def test_adm_reference_given_as_a_file_is_the_same(configure):
    file = "evaluation.reference=statistics/adm-imagenet256-inception-legacy_pytorch.npz"
    configuration.check(configure(["task=generate", "dataset=imagenet1k", file]))
    with pytest.raises(BiGainError, match="dataset=pets"):
        configuration.check(configure(["task=generate", "dataset=pets", file]))


def test_overrides_win(configure):
    chosen = ["task.steps=50", "limit=10", "evaluation.reference=x", "features.mode=clean"]
    cfg = configure(["protocol=adm", "task=generate", *chosen])
    assert (cfg.task.steps, cfg.limit) == (50, 10)
    assert (cfg.evaluation.reference, cfg.features.mode) == ("x", "clean")
    assert configure(["protocol=adm", "features=none"]).features.name == "none"


@pytest.mark.parametrize("task", [task for task in TASKS if task != "generate"])
def test_other_tasks_keep_their_settings(configure, task):
    before, after = configure([f"task={task}"]), configure([f"task={task}", "protocol=adm"])
    configuration.check(after)
    for key in set(before) - {"features", "evaluation"}:
        assert plain(after)[key] == plain(before)[key]


@pytest.mark.parametrize("task", TASKS)
def test_paper_changes_nothing(configure, task):
    assert configure([f"task={task}", "protocol=paper"]) == configure([f"task={task}"])


def test_timesteps_are_those_of_dit():
    """Official DiT takes round(i * 999 / 249) of 1,000."""
    sampler = build_sampler("ddpm", {"num_train_timesteps": 1000}, 250, "linspace", "cpu")
    expected = [round(i * 999 / 249) for i in range(250)][::-1]
    assert sampler.timesteps.tolist() == expected
    assert sampler.config.variance_type == "fixed_small"
