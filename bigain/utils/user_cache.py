"""The user's cache folder, for results that are costly to compute and stay the same.

The variable ``BIGAIN_CACHE`` names another folder; with ``BIGAIN_CACHE=off``, nothing is kept and
everything is computed each time.
"""

import os
from pathlib import Path


def folder() -> Path | None:
    """The cache folder, whether or not it exists; None if nothing is to be kept."""
    given = os.environ.get("BIGAIN_CACHE")
    if given == "off":
        return None
    if given:
        return Path(given).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bigain"
    except RuntimeError:  # the user has no home
        return None
