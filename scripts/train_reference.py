"""Train a reference model that ships with the code.

    python scripts/train_reference.py reference=dit_fashion data=/path/to/fashion-mnist
    python scripts/train_reference.py reference=fashion_features data=/path/to/fashion-mnist
    python scripts/train_reference.py reference=sd_fashion_vae data=/path/to/fashion-mnist
    python scripts/train_reference.py reference=sd_fashion data=/path/to/fashion-mnist

The last two are one model: the autoencoder comes first, and sd_fashion denoises its latents.
Every step draws from a generator keyed by (seed, step), so a run that is killed and started again
with the same command ends as one that was not.
Settings: configs/train_reference.yaml and configs/reference; recipes: scripts/training.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, to be said in one line
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python puts scripts/ there alone

import hydra
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from bigain.config import REPOSITORY, explain
from bigain.errors import BiGainError
from scripts.training.loop import Trainer

CONFIGS = str(REPOSITORY / "configs")


@hydra.main(version_base=None, config_path=CONFIGS, config_name="train_reference")
def main(cfg: DictConfig) -> None:
    try:
        Trainer(cfg, get_class(cfg.recipe)(cfg)).run()
    except BiGainError as error:  # here, so that Hydra adds nothing of its own
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    try:
        main()
    except (BiGainError, HydraException, OmegaConfBaseException, OSError) as error:
        sys.exit(f"error: {explain(error)}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from the last checkpoint")
