"""The runs of the last sweep, for ``python -m bigain.reporting table --last``."""

import json
from collections.abc import Sequence

from bigain.errors import BiGainError
from bigain.utils import files
from bigain.utils.paths import REPOSITORY

FILE = REPOSITORY / "outputs" / "last_sweep.json"


def remember(runs: Sequence[str]) -> None:
    """Keep the folders of a sweep's runs, in place of those of the one before."""
    with files.explained(FILE):
        FILE.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(FILE, json.dumps({"runs": list(runs)}, indent=2) + "\n")


def recalled() -> list[str]:
    """The folders of the last sweep's runs.

    Raises:
        BiGainError: if there was no sweep in this checkout, or the file is damaged.
    """
    if not FILE.is_file():
        raise BiGainError(
            f"there was no sweep yet ({FILE} is not there): run one, as in "
            "python run.py -m compressor=tome,lgtm, or name runs: table RUN RUN"
        )
    try:
        found: list[str] = json.loads(FILE.read_text())["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise BiGainError(f"{FILE} is damaged; delete it and run the sweep again") from error
    return found
