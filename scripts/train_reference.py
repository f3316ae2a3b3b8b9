"""Train a reference model that ships with the code.

    python scripts/train_reference.py reference=dit_fashion data=/path/to/fashion-mnist
    python scripts/train_reference.py reference=fashion_features data=/path/to/fashion-mnist
    python scripts/train_reference.py reference=sd_fashion_vae data=/path/to/fashion-mnist
    python scripts/train_reference.py reference=sd_fashion data=/path/to/fashion-mnist
    python scripts/train_reference.py reference=sd3_fashion data=/path/to/fashion-mnist

The autoencoder comes before the last two models, which denoise its latents.
Every step draws from a generator keyed by (seed, step), so a training that is killed and restarted
with the same command gives the same model as an uninterrupted one.
Settings: configs/train_reference.yaml and configs/reference; recipes: bigain/training.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout

import bigain.utils.interrupts  # noqa: F401 (first, for Ctrl-C during the imports below)

# isort: split
from hydra.utils import get_class
from omegaconf import DictConfig

from bigain.experiments.command_line import command


def train(cfg: DictConfig) -> None:
    """Train the model that ``reference=`` names, or resume its training."""
    from bigain.training.loop import Trainer  # only now: torch takes seconds

    Trainer(cfg, get_class(cfg.recipe)(cfg)).run()


def main() -> None:
    command(train, "train_reference", "the same command resumes from the last checkpoint")


if __name__ == "__main__":
    main()
