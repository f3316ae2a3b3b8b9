"""A configuration from overrides, as Hydra composes it but fast enough for whole experiments."""

import pickle
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigain.experiments import schema
from bigain.utils.paths import REPOSITORY

CONFIGS = REPOSITORY / "configs"


def composed(overrides: Sequence[str]) -> DictConfig:
    """What ``python run.py`` makes of ``overrides``.

    Hydra first composes the options chosen, which is slow, and then sets the values in their order;
    the former is done once for all that choose the same, and once for each compressor.
    """
    parsed = [_parsed(text) for text in overrides]
    if all(map(_is_plain, parsed)):
        options = tuple(str(o.input_line) for o in parsed if _chooses(o))
        cfg: DictConfig = pickle.loads(_chosen(options))
        with suppress(OmegaConfBaseException):
            for override in parsed:
                if not _chooses(override):
                    OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
            return cfg
    return _compose(overrides)  # what is rare, and errors in Hydra's words


def _is_plain(override: Override) -> bool:
    """Whether it is key=value or group=option: it adds, deletes, moves and sweeps nothing."""
    change = override.type == OverrideType.CHANGE and not override.is_sweep_override()
    return change and override.package is None


def _chooses(override: Override) -> bool:
    """Whether it chooses an option of a group; Hydra takes a dict for values."""
    group = CONFIGS / override.key_or_group
    return group.is_dir() and not isinstance(override.value(), dict)


@cache
def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_overrides([text])[0]


@cache
def _chosen(options: tuple[str, ...]) -> bytes:
    """The configuration of some options, pickled: five times as fast to copy as by deepcopy."""
    own = tuple(option for option in options if option.startswith("compressor="))
    if len(own) == 1 < len(options):
        usual, alone = (pickle.loads(_chosen(chosen)) for chosen in ((), own))
        before, after = _rest(usual), _rest(alone)
        if before == after:  # it changes nothing else
            cfg = pickle.loads(_chosen(tuple(option for option in options if option not in own)))
            cfg.compressor = alone.compressor
            return pickle.dumps(cfg)
    return pickle.dumps(_compose(options))


def _rest(cfg: DictConfig) -> dict[Any, Any]:
    """All but the compressor, with interpolations as they are written."""
    found: Any = OmegaConf.to_container(cfg)
    return {key: value for key, value in found.items() if key != "compressor"}


def _compose(overrides: Sequence[str]) -> DictConfig:
    schema.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return compose("config", overrides=list(overrides))
