"""A job for launchers, which says when it ran and which GPUs it saw."""

import json
import os
import time
from pathlib import Path

import hydra
from omegaconf import DictConfig

from bigain.experiments.plugins import register_plugins
from bigain.utils.paths import REPOSITORY


@hydra.main(version_base=None, config_path=str(REPOSITORY / "configs"), config_name="config")
def main(cfg: DictConfig) -> None:
    folder, began = Path(cfg.results), time.time()
    (folder / f"{cfg.seed}.began").touch()
    while len(list(folder.glob("*.began"))) < 2 and time.time() < began + 60:
        time.sleep(0.01)  # a second one beside it
    time.sleep(0.5)  # in which a third would begin, if it could
    seen = {"began": began, "ended": time.time(), "sees": os.environ.get("CUDA_VISIBLE_DEVICES")}
    (folder / f"{cfg.seed}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    register_plugins()
    main()
