"""Formulas by which runs are judged."""

import bigain.utils.experiments_extra  # noqa: F401 (first, as it says what to install)
