"""Build the dashboard that compares the runs logged with logger=wandb.

    python scripts/wandb_dashboard.py [--entity ENTITY] [--project bigain] [--name Comparison]
    python scripts/wandb_dashboard.py --dry-run  # print its specification as JSON, use no server

Each call saves a new view of the project's workspace; the view keeps up with the project's runs.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from bigain.errors import BiGainError


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the dashboard that compares logged runs.")
    parser.add_argument("--entity", help="owner of the project; default: your wandb default")
    parser.add_argument("--project", default="bigain", help="project of the runs")
    parser.add_argument("--name", default="Comparison", help="name of the view")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the JSON without contacting the server"
    )
    given = parser.parse_args()
    # only now: torch takes seconds
    from bigain.loggers.dashboard import dashboard, save, specification

    try:
        if given.dry_run:
            print(specification(dashboard(given.entity or "", given.project, given.name)))
        else:
            print(save(given.entity, given.project, given.name))
    except BiGainError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
