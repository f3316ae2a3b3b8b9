"""``python -m bigain.results table NAME``: an experiment's table and figure, into results/."""

import argparse
import sys
from pathlib import Path

from bigain.errors import BiGainError
from bigain.experiments import load
from bigain.results.build import build


def main() -> int:
    """Parse the command line, build what it asks for and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bigain.results")
    verbs = parser.add_subparsers(dest="verb", required=True)
    table = verbs.add_parser("table", help="write results/NAME.{csv,md,tex,png}, print the table")
    table.add_argument("name", metavar="NAME", help="of an experiment: experiments/NAME.yaml")
    arguments = parser.parse_args()
    try:
        print(build(load(arguments.name), Path("results")), end="")
    except BiGainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
