"""What tests of the families share."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.family_cases import FAMILIES


@pytest.fixture(scope="module")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline, by its name in `FAMILIES`; made once per file."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: FAMILIES[name].make(root / name, **FAMILIES[name].settings))
