"""Time this code against others and itself, always as a ratio of things timed in turn.

    make benchmark                                          every suite, on the GPU if there is one
    python scripts/benchmark.py suites=[operators] device=cpu

Settings: configs/benchmark.yaml; suites: scripts/benchmarking; results: results/benchmarks.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be said in one line
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python puts scripts/ there alone

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bigain.config import REPOSITORY, explain
from bigain.device import device_of, keep_freed_memory
from bigain.errors import BiGainError
from bigain.metrics.timing import conditions
from bigain.results.atomic import write_text
from scripts.benchmarking.report import Report, summary

SUITES = (
    "operators",
    "forwards",
    "classification",
    "generation",
    "efficiency",
    "scaling",
    "tables",
)
CONFIGS = str(REPOSITORY / "configs")


def benchmark(cfg: DictConfig) -> None:
    """Run the suites, and write what each found as soon as it is there."""
    if unknown := sorted(set(cfg.suites) - set(SUITES)):
        raise BiGainError(f"there is no suite {unknown[0]}; choose of {', '.join(SUITES)}")
    device = device_of(cfg.device)
    if device.type == "cpu":
        keep_freed_memory()  # as the runner does
    folder = Path(cfg.results)
    for name in cfg.suites:
        report: Report = import_module(f"scripts.benchmarking.{name}").run(cfg, device)
        print(report.write(folder / device.type, name, conditions(device)), flush=True)
    bars = summary(folder, ("cpu", "cuda"), SUITES)
    write_text(folder / "bars.md", bars + "\n")
    print(bars)


@hydra.main(version_base=None, config_path=CONFIGS, config_name="benchmark")
def main(cfg: DictConfig) -> None:
    try:
        benchmark(cfg)
    except BiGainError as error:  # here, so that Hydra adds nothing of its own
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        main()
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit("stopped; suites that were finished are kept")
