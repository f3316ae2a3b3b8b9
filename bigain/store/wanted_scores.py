"""The scores that a run must hold to be complete, in plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bigain.store.run_images import ARCHIVED
from bigain.store.runs import Run


@dataclass(frozen=True)
class WantedScores:
    """The scores that a run's images are to have.

    Attributes:
        records: where a run keeps them, by metric.
        against: the metrics one of which an archived run must have; the others it can no longer
            be given.
    """

    records: Mapping[str, str]
    against: Sequence[str]

    def complete(self, run: Run) -> bool:
        """Whether the run has all scores that it can still be given."""
        found = {m for m, record in self.records.items() if run.read_record(record) is not None}
        archived = run.read_record(ARCHIVED) is not None
        return len(found) == len(self.records) or (archived and not found.isdisjoint(self.against))
