"""Rows that stand for all rows of all experiments."""

from bigain.experiments import experiment_files
from bigain.experiments.experiment_files import Entry, Group


def kind_of(group: Group) -> str:
    """The kind of model: "dit", "sd", ... ; "" in an experiment without groups."""
    return group.name.split("_")[0].rstrip("0123456789")


def representatives(scale: str) -> list[Entry]:
    """By task, every model with its data, and once whatever a row adds to them."""
    found: dict[tuple, Entry] = {}
    for name in experiment_files.names(scale):
        experiment = experiment_files.load(name, scale)
        for group in experiment.groups:
            (plain,) = [row for row in group.rows if row.name == experiment.baseline]
            for row in group.rows:
                for task, entry in row.entries.items():
                    common = plain.entries[task].overrides
                    own = tuple(o for o in entry.overrides if o not in common)
                    where = () if own else tuple(common)
                    found.setdefault((task, where, own), entry)
    return list(found.values())
