"""What tests of compiled models share."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def dynamo() -> Iterator[Any]:
    """torch._dynamo, which remembers nothing of other tests."""
    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()
