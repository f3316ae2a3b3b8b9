"""YAML files that people write, read strictly and within bounds, each error in one line."""

import re
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import yaml

from bigain.errors import BiGainError, one_line
from bigain.utils.paths import REPOSITORY
from bigain.utils.setting_types import check_types, shown

MAX_BYTES = 100_000  # twenty times the largest of ours
MAX_VALUES = 20_000  # with every alias counted as what it stands for
MAX_DEPTH = 20
MAX_TEXT = 5_000  # characters of one value


class _Loader(yaml.SafeLoader):
    """A loader of plain values alone; as in Hydra's files, dates are text and 1e-3 is a number."""

    def get_event(self) -> Any:
        event = super().get_event()
        if getattr(event, "tag", None):
            line = event.start_mark.line + 1
            raise BiGainError(f"line {line} has the tag {shown(event.tag)}; remove it")
        return event


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if not tag.endswith((":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def shown_path(path: Path) -> str:
    """A file's path below the repository, in one line whatever its name."""
    text = str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)
    return text if text.isprintable() else ascii(text)


def read_mapping(
    path: Path, wanted: Mapping[str, Any] | None = None, required: Set[str] = frozenset()
) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Args:
        wanted: the keys that it may have with their annotations; None for any keys.
        required: those that it must have.

    Raises:
        BiGainError: if the file cannot be read, is not UTF-8, is no YAML, holds something other
            than a mapping, names a key twice, has a tag, refers to itself, or is larger or deeper
            than any such file is; or if its keys or their types are others. The message names the
            file, and the line where there is one.
    """
    where = shown_path(path)
    try:
        found = _constructed(_text(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise BiGainError(f"{where}{line}: {one_line(error.problem)}; mend its YAML") from None
    except yaml.YAMLError as error:
        raise BiGainError(f"{where}: {one_line(error)}; mend its YAML") from None
    except RecursionError:
        raise BiGainError(f"{where} nests deeper than {MAX_DEPTH} levels; flatten it") from None
    except OSError as error:
        raise BiGainError(f"{where} cannot be read: {error.strerror or error}") from None
    except (BiGainError, ValueError) as error:  # such as a number of 10,000 digits
        raise BiGainError(f"{where}: {one_line(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise BiGainError(f"{where} must hold a mapping of names to values; got {shown(found)}")
    if wanted is not None:
        check_keys(where, found, wanted, required)
    return found


def check_keys(
    where: str, found: Mapping[str, Any], wanted: Mapping[str, Any], required: Set[str]
) -> None:
    """Refuse a mapping with other keys than ``wanted``, without a required one, or of other types.

    Raises:
        BiGainError: it names all keys there may be.
    """
    if not required <= set(found) <= set(wanted):
        optional = ", ".join(sorted(set(wanted) - required))
        lacking = [f"lacks {key}" for key in sorted(required - set(found))]
        extra = [f"has {shown(key)}" for key in found if key not in wanted]
        raise BiGainError(
            f"{where} must have the keys {', '.join(sorted(required))} and may have {optional}; "
            f"it {', '.join([*lacking, *extra][:5])}"
        )
    check_types(where, found, wanted, "mend it as in the other files of experiments")


def _text(path: Path) -> str:
    if not path.is_file():
        raise BiGainError("it is not a file; move it away")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise BiGainError(f"it has more than {MAX_BYTES:,} bytes; split it")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise BiGainError(f"byte {error.start + 1} is not UTF-8; save it as UTF-8") from None


def _constructed(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {}, 1)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check(node: yaml.Node, sizes: dict[int, int], depth: int) -> int:
    """How many values a node stands for, with aliases written out.

    Args:
        sizes: the sizes of the nodes met before; 0 while their own values are counted.
    """
    if depth > MAX_DEPTH:
        raise BiGainError(f"it nests deeper than {MAX_DEPTH} levels; flatten it")
    if (known := sizes.get(id(node))) is not None:
        if not known:
            raise BiGainError(f"line {node.start_mark.line + 1} refers to itself; remove the alias")
        return known
    sizes[id(node)] = 0
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        names = Counter(_key(key) for key, _ in node.value)
        if repeated := [name for name, count in names.items() if count > 1]:
            line = node.start_mark.line + 1
            raise BiGainError(
                f"{shown(repeated[0])} stands twice in the mapping of line {line}; keep one"
            )
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = list(node.value)
    elif len(node.value) > MAX_TEXT:
        line = node.start_mark.line + 1
        raise BiGainError(
            f"line {line} holds a text of more than {MAX_TEXT:,} characters; shorten it"
        )
    size = 1
    for child in children:
        size += _check(child, sizes, depth + 1)
        if size > MAX_VALUES:
            raise BiGainError(
                f"it holds more than {MAX_VALUES:,} values, with aliases written out; shorten it"
            )
    sizes[id(node)] = size
    return size


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag.endswith(":merge"):
        raise BiGainError(f"line {node.start_mark.line + 1}: a key must be a name or a number")
    return str(node.value)
