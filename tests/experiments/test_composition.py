"""A configuration composed quickly is Hydra's own, and so are its errors."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from bigain.experiments import schema
from bigain.experiments.composition import composed
from bigain.utils.paths import REPOSITORY
from tests.experiment_rows import representatives


def by_hydra(overrides: list[str]) -> DictConfig:
    schema.register()
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base=None):
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
    for entry in representatives("paper"):
        assert composed(entry.overrides) == by_hydra(entry.overrides)


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
