"""``python -m bigain.results table NAME``: an experiment's table and figure, into results/."""

import argparse
import sys

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bigain.config import REPOSITORY, explain
from bigain.errors import BiGainError
from bigain.experiments import load
from bigain.results.build import build


def main() -> int:
    """Parse the command line, build what it asks for and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bigain.results")
    verbs = parser.add_subparsers(dest="verb", required=True)
    table = verbs.add_parser("table", help="write results/NAME.{csv,md,tex,png}, print the table")
    table.add_argument("name", metavar="NAME", help="of an experiment: experiments/NAME.yaml")
    table.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="for every row, as given to run.py"
    )
    arguments = parser.parse_args()
    try:
        experiment = load(arguments.name, arguments.overrides)
        print(build(experiment, REPOSITORY / "results"), end="")
        print(f"\nnext: {experiment.next}")
    except (BiGainError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
