"""A configuration composed quickly is Hydra's own, and so are its errors."""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from bigain.experiments import configuration, experiment_files
from bigain.experiments.composition import composed


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
def test_a_configuration_is_hydra_s(configure, overrides):
    for _ in range(2):  # the second time from what the first one left
        found, wanted = composed(overrides), configure(overrides)
        assert found == wanted and list(found) == list(wanted)
        assert OmegaConf.is_struct(found) and not OmegaConf.is_readonly(found)
        found.task.name = "other"


@pytest.mark.parametrize("name", ["table4", "table16", "figure6"])
def test_configurations_of_an_experiment_are_hydra_s(configure, name):
    for entry in experiment_files.load(name, "paper").entries:
        assert composed(entry.overrides) == configure(entry.overrides)


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
def test_what_cannot_be_composed_fails_in_hydra_s_words(configure, override):
    with pytest.raises(HydraException) as wanted:
        configure(["compressor=lgtm", override])
    with pytest.raises(HydraException) as found:
        composed(["compressor=lgtm", override])
    assert configuration.explain(found.value) == configuration.explain(wanted.value)
