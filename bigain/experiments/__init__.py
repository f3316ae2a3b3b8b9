"""From a command line to finished runs."""

import bigain.utils.experiments_extra  # noqa: F401 (first, as it says what to install)
