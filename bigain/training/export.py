"""The folder of a finished model."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bigain.training.curves import draw_curves
from bigain.training.recipe import Recipe
from bigain.utils.files import atomic, make_folder


def export(
    recipe: Recipe,
    model: nn.Module,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, float]],
    out: Path,
) -> None:
    """Evaluate a model, and write it with its figure and training.json.

    Each file gets its name only once it is complete. A card beside them is kept.

    Args:
        recipe: the recipe of the model.
        model: the finished model, in float32.
        facts: the content of training.json, to which the recipe's evaluation is added.
        rows: the rows of the log.
        out: the folder, created if it is missing.

    Raises:
        BiGainError: if a file cannot be written.
    """
    with torch.no_grad():
        evaluated = recipe.evaluate(model)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe.save(model, folder)
        draw_curves(rows, recipe.loss_name, recipe.panel, folder / "loss.png")
        (folder / "training.json").write_text(json.dumps({**facts, **evaluated}, indent=1) + "\n")
        for source in sorted(path for path in folder.rglob("*") if path.is_file()):
            target = out / source.relative_to(folder)
            make_folder(target.parent)
            with source.open("rb") as read, atomic(target) as written:
                shutil.copyfileobj(read, written)
