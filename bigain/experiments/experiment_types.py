"""What experiment files and scales may hold."""

from collections.abc import Mapping
from typing import Any

from bigain.errors import BiGainError, some
from bigain.experiments.composition import CONFIGS
from bigain.experiments.schema import suggestion
from bigain.utils.setting_types import shown

SCALES = ("paper", "mini")
KEYS = frozenset({"title", "note", "baseline", "tasks", "rows"})
TASKS = dict[str, list[str] | None]
TYPES: dict[str, Any] = {
    "title": str,
    "note": str,
    "baseline": str,
    "tasks": TASKS,
    "rows": str | list[Any],
    "groups": dict[str, list[str]],
    "next": str,
    "figures": list[str],
    "axis": str,
    "maps": dict[str, int],
    "overview": list[str],
    "without": list[str],
}
SCALE_TYPES = {"tasks": TASKS, "groups": dict[str, dict[str, Any]], "spent": bool}
GROUP_KEYS = frozenset({"title", "overrides"})
TASK_NAMES = ("classify", "generate", "trace", "profile", "evaluate")
# a task's name gives overrides for it alone
GROUP_TYPES: dict[str, Any] = {
    "title": str,
    "overrides": list[str],
    "tasks": list[str],  # those that the group takes part in; all of them if absent
    "published": dict[str, str],
    **dict.fromkeys(TASK_NAMES, list[str]),
}


def check_names(found: Mapping[str, Any]) -> None:
    """Refuse names of scales, tasks and settings of maps that there are not."""
    accepted = {
        "groups": SCALES,
        "tasks": sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml")),
        "maps": ("block", "timestep"),
    }
    for key, known in accepted.items():
        for given in found.get(key, {}):
            if given not in known:
                raise BiGainError(f"{key} names {shown(given)}; {suggestion(given, known)}")
    if not found["tasks"] or found.get("groups") == {}:
        raise BiGainError("tasks and groups must each name at least one")


def check_rows(found: Mapping[str, Any]) -> None:
    """Refuse rows that are not unique, and names of rows and groups that there are not."""
    known_names = [row.name for row in found["rows"]]
    if found["baseline"] not in known_names or len(set(known_names)) < len(known_names):
        raise BiGainError(
            f"rows must be unique and baseline one of them; got {some(known_names)} and "
            f"{shown(found['baseline'])}"
        )
    named = {name.partition("@")[0] for name in known_names}
    if unknown := [name for name in found.get("overview", []) if name not in named]:
        raise BiGainError(
            f"overview names {unknown[0]}, which is no method of its rows; they are of "
            f"{', '.join(sorted(named))}"
        )
    groups = {group for names in found.get("groups", {}).values() for group in names}
    for row in found["rows"]:
        if unknown := [name for name in row.own.get("groups", []) if name not in groups]:
            raise BiGainError(
                f"row {row.name}: groups names {shown(unknown[0])}, which is no group of the "
                f"experiment; it has {', '.join(sorted(groups)) or 'none'}"
            )
