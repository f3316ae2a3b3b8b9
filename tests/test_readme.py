"""The README's own code runs."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bigain.compressors import TokenGrid

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_example_compressor_merges_pairs(monkeypatch):
    (source,) = [block for block in BLOCKS if "class Checkerboard" in block]
    module = ModuleType("checkerboard")
    monkeypatch.setitem(sys.modules, "checkerboard", module)
    exec(source, module.__dict__)
    x = torch.arange(15.0).view(1, 15, 1)
    queries = module.Checkerboard().plan(x, TokenGrid(3, 5)).queries
    assert queries.apply(x).flatten().tolist() == [0.5, 2.5, 4, 5.5, 7.5, 9, 10.5, 12.5, 14]
    assert queries.undo(queries.apply(x)).flatten().tolist()[:5] == [0.5, 0.5, 2.5, 2.5, 4]


def test_the_example_on_a_pipeline(unet):
    (source,) = [block for block in BLOCKS if "bigain.compress(pipe" in block]

    class Output:
        images = (torch.zeros(1),)

    class Pipe:
        def __init__(self, model) -> None:
            self.unet = model.model

        def __call__(self, prompt: str) -> Output:
            self.output = unet()
            return Output()

    pipe = Pipe(unet)
    plain = unet()
    exec(source, {"pipe": pipe})
    assert (pipe.output - plain).abs().max() > 1e-3
    assert torch.equal(unet(), plain)


def test_the_example_on_tensors():
    (source,) = [block for block in BLOCKS if "TokenGrid(64, 64)" in block]
    names = {"x": torch.randn(1, 4096, 8)}
    exec(source, names)
    assert names["z"].shape == (1, 2048, 8) and names["y"].shape == (1, 4096, 8)


def table(text: str) -> list[str]:
    """Markdown rows, without their padding."""
    return [re.sub(r" +|-{3,}", " ", line) for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize(("name", "file"), [("demo", "demo.md"), ("joint", "mini/figure2.md")])
def test_its_tables_are_those_of_the_runs(name, file):
    (shown,) = re.findall(rf"<!-- {name} -->(.*?)<!-- /{name} -->", README, re.S)
    written = (Path(__file__).parent.parent / "results" / file).read_text()
    assert table(shown) == table(written) != []
