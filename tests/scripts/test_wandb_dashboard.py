"""The dashboard shows what runs log, and its errors take one line."""

import json
import sys
from types import SimpleNamespace

import pytest
import wandb
import wandb_workspaces.workspaces as ws

from bigain.loggers import dashboard
from bigain.loggers import wandb as logger
from scripts import wandb_dashboard as script


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", *arguments])
    script.main()


def panels(spec: dict, kind: str) -> list[dict]:
    sections = spec["section"]["panelBankConfig"]["sections"]
    return [p["config"] for s in sections for p in s["panels"] if p["viewType"] == kind]


def test_a_dry_run_prints_the_specification(monkeypatch, capsys):
    monkeypatch.setattr(wandb, "Api", lambda *_, **__: pytest.fail("asked the server"))
    call(monkeypatch, "--dry-run", "--project", "other")
    spec = json.loads(capsys.readouterr().out)
    axes = {(p["xAxis"], p["yAxis"]) for p in panels(spec, "Scatter Plot")}
    costs, values = ("gflops", "seconds"), ("acc1", "fid")
    assert axes == {(f"summary:{cost}", f"summary:{value}") for cost in costs for value in values}
    lines = panels(spec, "Run History Line Plot")
    assert {(p["xAxis"], *p["metrics"]) for p in lines} == {
        (strength, value) for strength in ("ratio", "factor") for value in values
    }
    assert {p["groupBy"] for p in lines} == {"compressor.value.name"}
    assert [p["mediaKeys"] for p in panels(spec, "Media Browser")] == [["sheet"], ["samples"]]
    assert len(panels(spec, "Run Comparer")) == 1


def test_saving_says_where(monkeypatch, capsys):
    saved = []

    def save(self):
        saved.append((self.entity, self.project, self.name))
        return SimpleNamespace(url="https://server/view")

    monkeypatch.setattr(dashboard, "problem", lambda mode: None)
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(default_entity="me"))
    monkeypatch.setattr(ws.Workspace, "save", save)
    call(monkeypatch, "--name", "Mine")
    call(monkeypatch, "--entity", "us")
    assert saved == [("me", "bigain", "Mine"), ("us", "bigain", "Comparison")]
    assert capsys.readouterr().out.splitlines() == ["https://server/view"] * 2


def refused(self):
    raise ValueError("permission\ndenied")


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (logger.LOGIN, "error: wandb has no login; `wandb login` makes one"),
        (logger.INSTALL, f"error: {logger.INSTALL}"),
        (None, "error: the dashboard of us/bigain was not saved: permission denied"),
    ],
)
def test_errors_are_one_line(monkeypatch, problem, message):
    monkeypatch.setattr(dashboard, "problem", lambda mode: problem)
    monkeypatch.setattr(ws.Workspace, "save", refused)
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "--entity", "us")
    assert caught.value.code == message


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, "--dry-run")
    assert caught.value.code.startswith("error: wandb-workspaces is not installed")
