"""A configuration composed quickly is Hydra's own, and so are its errors."""

import re
import shutil

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bigain.experiments import composition, schema
from bigain.experiments.composition import CONFIGS, composed
from tests.experiment_rows import representatives


def by_hydra(overrides: list[str]) -> DictConfig:
    schema.register()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose("config", overrides=overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["compressor=iekvd", "compressor.alpha={noise: 0.8, clean: 1.2}", "limit=7", "limit=9"],
        ["seed=1", "task=generate", "protocol=adm", "model=sd2", "task.steps=5", "seed=1"],
        ["compressor=lgtm_iekvd", "compressor._args_.0.ratio=0.3", "task.samples=[1,2]"],
        ["task={name: x}", "+logger.extra=1", "~model.blocks", "blocks=all", "hydra.verbose=true"],
    ],
)
def test_a_configuration_is_hydra_s(overrides):
    for _ in range(2):  # the second time from what the first one left
        found, wanted = composed(overrides), by_hydra(overrides)
        assert found == wanted and list(found) == list(wanted)
        assert OmegaConf.is_struct(found) and not OmegaConf.is_readonly(found)
        found.task.name = "other"


def test_configurations_of_experiments_are_hydra_s():
    forms: dict[tuple[str, ...], list[str]] = {}  # what differs in a number alone is one form
    for entry in representatives("paper"):
        form = tuple(re.sub(r"=[\d.]+$", "=0", override) for override in entry.overrides)
        forms.setdefault(form, entry.overrides)
    assert len(forms) > 60
    for overrides in forms.values():
        assert composed(overrides) == by_hydra(overrides)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "compressor").glob("*.yaml")))
def test_a_compressor_is_composed_as_beside_other_options(name):
    chosen = ["task=generate", f"compressor={name}", "model=sd2", "dataset=pets"]
    assert composed(chosen) == by_hydra(chosen)


def test_an_option_that_changes_more_than_its_group_is_composed_with_the_others(
    tmp_path, monkeypatch
):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs" / "compressor" / "odd.yaml").write_text(
        "# @package _global_\nmodel: {image_size: 7}\ncompressor: {name: odd, _target_: null}\n"
    )
    monkeypatch.setattr(composition, "CONFIGS", tmp_path / "configs")
    found = composed(["compressor=odd", "task=generate"])
    assert found.compressor.name == "odd" and found.model.image_size == 7


@pytest.mark.parametrize(
    "override",
    [
        "compressor=absent",
        "absent=1",
        "compressor.absent=1",
        "limit=x",
        "seed=1,2",
        "seed@x=1",
        "[",
    ],
)
def test_what_cannot_be_composed_fails_in_hydra_s_words(override):
    with pytest.raises(HydraException) as wanted:
        by_hydra(["compressor=lgtm", override])
    with pytest.raises(HydraException) as found:
        composed(["compressor=lgtm", override])
    assert schema.explain(found.value) == schema.explain(wanted.value)
