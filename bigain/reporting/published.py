"""The paper's own values beside ours."""

from collections.abc import Mapping, Sequence

from bigain.tasks.columns import Column, Columns, Row, valued
from bigain.utils.tables import formatted

# metric in experiments/published.csv -> (our key, header)
METRICS = {"acc1": ("acc1", "accuracy"), "map": ("map", "mAP"), "fid": ("fid", "FID")}
LEGEND = (
    "Published values are those of the paper (arXiv 2603.12240; experiments/published.csv names "
    "each one's source), and the difference is ours less theirs."
)


def add_published(row: Row, values: Mapping[str, float]) -> Row:
    """``row`` with "published_<metric>" and "from_published_<metric>", None where there is none."""
    found: Row = {}
    for metric, (key, _) in METRICS.items():
        theirs, ours = values.get(metric), row.get(key)
        found[f"published_{metric}"] = theirs
        found[f"from_published_{metric}"] = None
        if ours is not None and theirs is not None:
            found[f"from_published_{metric}"] = ours - theirs
    return {**row, **found}


def published(rows: Sequence[Row]) -> list[Columns]:
    """The columns of the metrics that any row has a published value of; without any, nothing."""
    there = [m for m in METRICS if any(row[f"published_{m}"] is not None for row in rows)]
    if not there:
        return []
    keys = [f"{kind}_{m}" for m in there for kind in ("published", "from_published")]
    columns = [c for m in there for c in _columns(m)]
    return [Columns(tuple(keys), tuple(columns), LEGEND)]


def _columns(metric: str) -> tuple[Column, Column]:
    name, key = METRICS[metric][1], f"from_published_{metric}"
    return (
        valued(f"Published {name}", f"published_{metric}", 4),
        Column("Ours less theirs", lambda row: _signed(row[key]), key),
    )


def _signed(value: float | None) -> str | None:
    return None if value is None else formatted(value, "+.2f")
