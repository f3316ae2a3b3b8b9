"""Time this code against others and itself, always as a ratio of things timed in turn.

    make benchmark                                          every suite, on the GPU if there is one
    python scripts/benchmark.py suites=[operators] device=cpu

Settings: configs/benchmark.yaml; suites: bigain/benchmarks; results: results/benchmarks.
"""

import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python puts scripts/ there alone

from omegaconf import DictConfig, open_dict

from bigain.benchmarks.report import Report, summary
from bigain.errors import BiGainError
from bigain.experiments.command_line import command
from bigain.profiling.timing import conditions
from bigain.utils.devices import device_of, keep_freed_memory
from bigain.utils.files import write_text
from bigain.utils.hardware import HARDWARE, hardware, multiplies

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
    suit(cfg, chosen.type)
    for name in cfg.suites:
        if name in ON_CPU and chosen.type != "cpu":
            print(f"{name} times processes on a CPU; device=cpu runs it\n", flush=True)
            continue
        report: Report = import_module(f"bigain.benchmarks.{name}").run(cfg, chosen)
        print(report.write(folder / hardware(chosen.type), name, conditions(chosen)), flush=True)
    bars = summary(folder, measured(folder), SUITES)
    write_text(folder / "bars.md", bars + "\n")
    print(bars)


def suit(cfg: DictConfig, kind: str) -> None:
    """Choose each dtype that is left to the device, and leave out the cases that it is slow at."""
    half = multiplies("bfloat16", kind)
    for own in (cfg[name] for name in SUITES):
        if own.get("dtype") == "auto":
            own.dtype = "bfloat16" if half else "float32"
        if own.get("dtypes") == "auto":
            own.dtypes = ["float32", "bfloat16"] if half else ["float32"]
    for name, case in list(cfg.forwards.cases.items()):
        if not multiplies(case.dtype, kind):
            print(f"{hardware(kind)} does not multiply {case.dtype}: no forwards of {name}")
            with open_dict(cfg):
                del cfg.forwards.cases[name]


def measured(folder: Path) -> list[str]:
    """The hardware that has results, the fastest last, and a GPU even without."""
    return [kind for kind in reversed(HARDWARE) if kind == "cuda" or (folder / kind).is_dir()]


if __name__ == "__main__":
    command(benchmark, "benchmark", "suites that were finished are kept")
