"""How a configuration scores generated images."""

from pathlib import Path

from omegaconf import DictConfig

from bigain.errors import BiGainError
from bigain.experiments import configuration
from bigain.store.runs import Run
from bigain.tasks import scoring
from bigain.tasks.scoring import PromptNetwork, Scoring, open_reference
from bigain.utils.devices import device_of


def scoring_of(cfg: DictConfig) -> Scoring:
    """The feature network, the reference and the metrics of a configuration.

    Raises:
        BiGainError: if a setting, the network's weights or the reference cannot be used.
    """
    network = configuration.build(cfg, "features")
    metrics = configuration.metrics(cfg)
    where = cfg.evaluation.reference
    if where is None:
        raise BiGainError(
            f"dataset={cfg.dataset.name} names no reference; set evaluation.reference to a "
            "folder of images or an .npz of scripts/make_reference_statistics.py, or "
            "features=none"
        )
    return Scoring(
        network,
        metrics,
        open_reference(where, Path(cfg.evaluation.statistics), network),
        device_of(cfg.device),
        cfg.batch_size,
        _clip(cfg.evaluation.clip),
        cfg.evaluation.allow_few,
    )


def evaluate(cfg: DictConfig) -> Run | None:
    """Score the run or the folder of images that the task names; see `scoring.evaluate`.

    Raises:
        BiGainError: if the configuration or the images cannot be used.
    """
    configuration.check(cfg)
    if cfg.features._target_ is None:
        raise BiGainError("task=evaluate needs a feature network; choose one with features=...")
    given, results = configuration.build(cfg, "task").path, Path(cfg.results)
    if given is None:
        known = ", ".join(map(str, sorted(results.glob("runs/generate-*")))) or "none yet"
        raise BiGainError(
            f"set task.path to a folder of images or a run of task=generate; there are: {known}"
        )
    return scoring.evaluate(scoring_of(cfg), Path(given), results, cfg.limit)


def _clip(path: str | None) -> PromptNetwork | None:
    if path is None:
        return None
    from bigain.features.clip import ClipScore  # only here: transformers is slow to import

    return ClipScore(path)
