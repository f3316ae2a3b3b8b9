"""The benchmark suites: each is a module of this package with a function ``run``."""

from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig, open_dict

from bigain.benchmarks.report import Report, summary
from bigain.errors import BiGainError
from bigain.profiling.timing import conditions
from bigain.utils.devices import device_of, keep_freed_memory
from bigain.utils.files import write_text
from bigain.utils.hardware import HARDWARE, hardware, multiplies

SUITES = (
    "operators",
    "forwards",
    "planning",
    "classification",
    "generation",
    "efficiency",
    "scaling",
    "tables",
    "flops",
)
CPU_ONLY = {"scaling"}
COUNTED = {"flops"}  # nothing is timed, so that the hardware does not matter


def run_suites(cfg: DictConfig) -> None:
    """Run the suites of ``cfg.suites``, and write each one's report as soon as it is finished."""
    if unknown := sorted(set(cfg.suites) - set(SUITES)):
        raise BiGainError(f"there is no suite {unknown[0]}; choose from {', '.join(SUITES)}")
    chosen, folder = device_of(cfg.device), Path(cfg.results)
    if chosen.type == "cpu":
        keep_freed_memory()  # as the runner does
    adapt_to_device(cfg, chosen.type)
    for name in cfg.suites:
        if name in CPU_ONLY and chosen.type != "cpu":
            print(f"{name} times processes on a CPU; device=cpu runs it\n", flush=True)
            continue
        report: Report = import_module(f"bigain.benchmarks.{name}").run(cfg, chosen)
        where, how = folder / hardware(chosen.type), conditions(chosen)
        if name in COUNTED:
            where, how = folder, {key: how[key] for key in ("torch", "diffusers", "command")}
        print(report.write(where, name, how), flush=True)
    bars = summary(folder, measured_hardware(folder), SUITES)
    write_text(folder / "bars.md", bars + "\n")
    print(bars)


def adapt_to_device(cfg: DictConfig, kind: str) -> None:
    """Resolve each dtype given as "auto", and drop the forwards in a dtype the device emulates."""
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


def measured_hardware(folder: Path) -> list[str]:
    """The hardware that has results, fastest last; a GPU is listed even if it has none."""
    return [kind for kind in reversed(HARDWARE) if kind == "cuda" or (folder / kind).is_dir()]
