"""Runs on disk."""

import bigain.utils.experiments_extra  # noqa: F401 (first, as it says what to install)
