"""Time this code against others and itself, always as a ratio of things timed in turn.

    make benchmark                                          every suite, on the GPU if there is one
    python scripts/benchmark.py suites=[operators] device=cpu

Settings: configs/benchmark.yaml; suites: scripts/benchmarking; results: results/benchmarks.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python puts scripts/ there alone

from omegaconf import DictConfig

from bigain.device import device_of, keep_freed_memory
from bigain.errors import BiGainError
from bigain.metrics.timing import conditions
from bigain.results.atomic import write_text
from scripts.benchmarking.report import Report, summary
from scripts.hydra_command import command

SUITES = (
    "operators",
    "forwards",
    "classification",
    "generation",
    "efficiency",
    "scaling",
    "tables",
)
ON_CPU = {"scaling"}  # alone


def benchmark(cfg: DictConfig) -> None:
    """Run the suites, and write what each found as soon as it is there."""
    if unknown := sorted(set(cfg.suites) - set(SUITES)):
        raise BiGainError(f"there is no suite {unknown[0]}; choose of {', '.join(SUITES)}")
    chosen, folder = device_of(cfg.device), Path(cfg.results)
    if chosen.type == "cpu":
        keep_freed_memory()  # as the runner does
    for name in cfg.suites:
        if name in ON_CPU and chosen.type != "cpu":
            print(f"{name} times processes on a CPU; device=cpu runs it\n", flush=True)
            continue
        report: Report = import_module(f"scripts.benchmarking.{name}").run(cfg, chosen)
        print(report.write(folder / chosen.type, name, conditions(chosen)), flush=True)
    bars = summary(folder, ("cpu", "cuda"), SUITES)
    write_text(folder / "bars.md", bars + "\n")
    print(bars)


if __name__ == "__main__":
    command(benchmark, "benchmark", "suites that were finished are kept")
