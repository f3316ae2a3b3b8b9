"""The user's cache folder: what would give the same again, kept from process to process.

`BIGAIN_CACHE` names another folder, and ``BIGAIN_CACHE=off`` keeps nothing and computes all anew.
"""

import os
from pathlib import Path


def folder() -> Path | None:
    """The cache folder, there or not; None if there is to be none."""
    given = os.environ.get("BIGAIN_CACHE")
    if given == "off":
        return None
    if given:
        return Path(given).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bigain"
    except RuntimeError:  # the user has no home
        return None
