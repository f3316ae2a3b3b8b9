"""``python -m bigain.reporting``: tables and figures from the store, and what it lacks."""

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
import argparse
import sys
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bigain.errors import BiGainError
from bigain.experiments.experiment_files import load, load_all, names
from bigain.experiments.experiment_types import SCALES
from bigain.experiments.last_sweep import recalled
from bigain.experiments.schema import explain
from bigain.utils.paths import REPOSITORY, given_path

# Analyses of the embedded models: what each is for, and its settings unless others are given.
ANALYSES = {
    "racing": (
        "say what task.strategy=race saves, from runs of all trials",
        ("start=0", "limit=1000"),
    ),
    "cascades": (
        "say what task.decide_with=uncompressed buys, from runs of all trials",
        ("start=0", "limit=1000"),
    ),
    "depth": (
        "measure whether the errors of compressed blocks add up or cancel",
        ("dataset=fashion_mnist", "start=0", "limit=64"),
    ),
}


def main() -> int:
    """Parse the command line, build what it asks for and return the exit status."""
    arguments = _parse()
    try:
        VERBS[arguments.verb](arguments)
    except (BiGainError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 1
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bigain.reporting",
        description="Make tables and figures from the finished runs, and say what is missing.",
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    table = verbs.add_parser(
        "table", help="write an experiment's table and figures, or print a table of any runs"
    )
    table.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="the experiment, experiments/NAME.yaml, and settings of every row, KEY=VALUE, as for "
        "run.py; or the folders of runs",
    )
    table.add_argument("--last", action="store_true", help="the runs of the last sweep")
    table.add_argument("--scale", choices=SCALES, help="default: mini, for experiments with scales")
    table.add_argument("--out", type=given_path, help="folder; default: results, or results/SCALE")
    state = verbs.add_parser("status", help="say what is done, running, missing or failed")
    state.add_argument("--scale", choices=SCALES, help="default: mini, or else paper")
    state.add_argument("--details", action="store_true", help="show every entry")
    state.add_argument(
        "--ahead",
        action="store_true",
        help="say what is left to compute, and how long that takes here if it was measured before",
    )
    state.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="experiments to show in detail, and settings, KEY=VALUE, as for run.py; default: one "
        "line for each experiment",
    )
    kept = verbs.add_parser("bundle", help="pack finished runs into a few small files to keep")
    kept.add_argument(
        "names", nargs="*", metavar="NAME", help="the experiments; default: all of the scale"
    )
    kept.add_argument("--scale", choices=SCALES, default="mini")
    kept.add_argument(
        "--drop-unused",
        action="store_true",
        help="remove the runs in bundles that no experiment of the scale asks for",
    )
    found = verbs.add_parser("findings", help="write the tables of docs/findings.md")
    found.add_argument("--scale", choices=SCALES, default="mini")
    page = verbs.add_parser("report", help="write one HTML page of all tables and figures")
    page.add_argument("--scale", choices=SCALES, default="mini")
    page.add_argument("--out", type=given_path, help="file; default: results/SCALE/report.html")
    whole = verbs.add_parser("overview", help="draw accuracy and FID of all models in one figure")
    whole.add_argument(
        "name", nargs="?", default="figure2", help="an experiment that defines an overview"
    )
    whole.add_argument("--scale", choices=SCALES, default="mini")
    whole.add_argument("--out", type=given_path, help="file; default: results/overview.png")
    learned = verbs.add_parser(
        "weights", help="find task.weights on a run of all trials, which needs no labels"
    )
    learned.add_argument(
        "names", nargs="+", metavar="KEY=VALUE", help="the run's settings, as for run.py"
    )
    for name, (purpose, default) in ANALYSES.items():
        analysis = verbs.add_parser(name, help=purpose)
        analysis.add_argument(
            "names",
            nargs="*",
            metavar="KEY=VALUE",
            help=f"the images and other settings, as for run.py; default: {' '.join(default)}",
        )
        analysis.add_argument("--scale", choices=SCALES, default="mini")
    arguments, more = parser.parse_known_args()
    if arguments.verb != "table" or not all("=" in text for text in more):
        parser.parse_args()  # exits with what is wrong
    else:
        arguments.names += more  # arguments after an option, which argparse leaves out
    return arguments


# Each imports what it needs itself, so that help and a typing mistake do not wait for torch.


def _table(arguments: argparse.Namespace) -> None:
    overrides = [text for text in arguments.names if "=" in text and not Path(text).is_dir()]
    chosen = [text for text in arguments.names if text not in overrides]
    runs = recalled() if arguments.last else [name for name in chosen if "/" in name]
    if runs:
        if overrides or arguments.scale or arguments.out or len(runs) < len(chosen):
            raise BiGainError(
                "a table of runs takes their folders alone, such as results/runs/*, or --last"
            )
        from bigain.reporting.run_table import run_table

        print(run_table([given_path(run) for run in runs]), end="")
        return
    if len(chosen) != 1:
        raise BiGainError(
            f"name one experiment ({', '.join(names())}), the folders of runs, or --last; got "
            f"{' '.join(chosen) or 'nothing'}"
        )
    experiment = load(chosen[0], arguments.scale, overrides)
    from bigain.reporting.build import build, collect
    from bigain.reporting.verdict import verdict

    out = arguments.out or REPOSITORY / "results" / (experiment.scale or "")
    collected = collect(experiment)
    print(build(experiment, out, collected), end="")
    if said := verdict([part.section for part in collected if part.section]):
        print(f"\n{said}")
    if experiment.next:
        print(f"\nnext: {experiment.next}")


def _status(arguments: argparse.Namespace) -> None:
    from bigain.reporting.status import status_of

    for line in status_of(arguments.names, arguments.scale, arguments.details, arguments.ahead):
        print(line, flush=True)


def _bundle(arguments: argparse.Namespace) -> None:
    from bigain.reporting.bundling import bundle, drop_unused, reads_of

    known, problems = load_all(names(arguments.scale), arguments.scale)
    if arguments.drop_unused and problems:
        raise BiGainError(
            f"which runs are unused is not known, because of {problems[0]}; mend it, or bundle "
            "without --drop-unused"
        )
    chosen = [load(name, arguments.scale) for name in arguments.names] or known
    entries = list({tuple(e.overrides): e for one in chosen for e in one.entries}.values())
    done = bundle(entries, reads_of(known, everything=bool(problems)))
    print(f"{done} of {len(entries)} entries are finished and in bundles")
    if arguments.drop_unused:
        gone = drop_unused(entry for experiment in known for entry in experiment.entries)
        print(f"{len(gone)} runs that no experiment asks for are gone from bundles")
    for problem in problems:
        print(
            f"left out: {problem}; until then bundles keep all that any experiment may read",
            file=sys.stderr,
        )


def _findings(arguments: argparse.Namespace) -> None:
    from bigain.reporting.findings import findings

    made = findings(REPOSITORY / "results" / arguments.scale, arguments.scale)
    print(made.text)
    for problem in made.problems:
        print(f"left out: {problem}", file=sys.stderr)


def _report(arguments: argparse.Namespace) -> None:
    from bigain.reporting.report import report

    print(f"wrote {report(arguments.scale, arguments.out)}")


def _overview(arguments: argparse.Namespace) -> None:
    experiment = load(arguments.name, arguments.scale)
    from bigain.reporting.build import draw_overview

    path = arguments.out or REPOSITORY / "results" / "overview.png"
    if draw_overview(experiment, path):
        print(f"wrote {path}")


def _racing(arguments: argparse.Namespace) -> None:
    from bigain.reporting.racing import racing

    for name, text in racing(*_analysis(arguments)).items():
        print(f"## {name}\n\n{text}")


def _weights(arguments: argparse.Namespace) -> None:
    from bigain.reporting.weights import weights

    print(weights(arguments.names), end="")


def _cascades(arguments: argparse.Namespace) -> None:
    from bigain.reporting.cascades import cascades

    print(cascades(*_analysis(arguments)))


def _depth(arguments: argparse.Namespace) -> None:
    from bigain.reporting.depth import depth

    print(depth(*_analysis(arguments)))


def _analysis(arguments: argparse.Namespace) -> tuple[Path, list[str]]:
    """The folder of the scale, and the settings."""
    _, default = ANALYSES[arguments.verb]
    return REPOSITORY / "results" / arguments.scale, arguments.names or list(default)


VERBS = {
    "table": _table,
    "status": _status,
    "bundle": _bundle,
    "findings": _findings,
    "report": _report,
    "overview": _overview,
    "racing": _racing,
    "weights": _weights,
    "cascades": _cascades,
    "depth": _depth,
}


if __name__ == "__main__":
    sys.exit(main())
