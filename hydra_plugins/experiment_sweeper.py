"""Hydra's basic sweeper, which also sweeps the explicit rows of an experiment.

    python run.py -m experiment=demo

Hydra looks for sweepers in the namespace package ``hydra_plugins`` alone.
"""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from bigain import experiments


class ExperimentSweeper(BasicSweeper):
    """One job a row and task of ``experiments/<experiment>.yaml``, times any other sweep."""

    @staticmethod
    def split_arguments(
        overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        named = [o.value() for o in overrides if o.key_or_group == "experiment"]
        if not named:
            return BasicSweeper.split_arguments(overrides, max_batch_size)
        rest = [o for o in overrides if o.key_or_group != "experiment"]
        parser = OverridesParser.create()
        jobs = []
        cells = [c for row in experiments.load(str(named[-1])).rows for c in row.cells.values()]
        for cell in cells:
            # the command line comes last, and the later of two overrides of a key wins
            both = [*parser.parse_overrides(cell.overrides), *rest]
            jobs += BasicSweeper.split_arguments(both, None)[0]
        return list(BasicSweeper.split_overrides_to_chunks(jobs, max_batch_size))
