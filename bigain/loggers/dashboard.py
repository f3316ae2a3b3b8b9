"""A Weights & Biases dashboard that compares the runs logged with logger=wandb."""

from typing import TYPE_CHECKING, Any

from bigain.errors import BiGainError, one_line
from bigain.loggers.wandb import INSTALL, LOGIN, problem

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

VALUES = {"acc1": "Top-1 accuracy (%)", "fid": "FID (lower is better)"}
COSTS = {"gflops": "GFLOPs per evaluation", "seconds": "Seconds per image (median)"}
STRENGTHS = {
    "ratio": "Ratio of tokens removed",
    "factor": "Factor of keys and values, each side",
}


def dashboard(entity: str, project: str, name: str) -> "ws.Workspace":
    """Build the workspace without saving it.

    Raises:
        BiGainError: if wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise BiGainError(INSTALL.replace("wandb is", "wandb-workspaces is")) from error
    sections: dict[str, list[Any]] = {
        "Trade-off": [
            wr.ScatterPlot(
                title=f"{label} against {cost_label}",
                x=wr.SummaryMetric(cost),
                y=wr.SummaryMetric(value),
            )
            for value, label in VALUES.items()
            for cost, cost_label in COSTS.items()
        ],
        "By strength": [_lines(value, strength) for value in VALUES for strength in STRENGTHS],
        "Samples": [
            wr.MediaBrowser(
                title="Contact sheets, the same seeds under every method",
                media_keys=["sheet"],
                gallery_axis="run",
                num_columns=2,
            ),
            wr.MediaBrowser(
                title="Samples", media_keys=["samples"], grid_x_axis="index", grid_y_axis="run"
            ),
        ],
        "Images": [wr.WeavePanelSummaryTable(table_name="images")],
        "Runs": [wr.RunComparer(diff_only="split")],
    }
    layout = ws.SectionLayoutSettings(columns=2, rows=2)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(name=title, panels=panels, is_open=True, layout_settings=layout)
            for title, panels in sections.items()
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
    )


def _lines(value: str, strength: str) -> "wr.LinePlot":
    """One line per compressor, through its runs."""
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=f"{VALUES[value]} by {strength}",
        x=wr.Metric(strength),
        y=[wr.Metric(value)],
        title_x=STRENGTHS[strength],
        title_y=VALUES[value],
        groupby=wr.Config("compressor.name"),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=100,
    )


def specification(workspace: "ws.Workspace") -> str:
    """The JSON that would be sent to the server."""
    spec = workspace._to_model().spec
    return spec.model_dump_json(by_alias=True, exclude_none=True, indent=2)


def save(entity: str | None, project: str, name: str) -> str:
    """Save the dashboard and return its address.

    Raises:
        BiGainError: if the packages or a login are missing, or the server refuses.
    """
    if why := problem("online"):
        # LOGIN also suggests offline mode, which cannot save a dashboard
        raise BiGainError("wandb has no login; `wandb login` makes one" if why == LOGIN else why)
    import wandb

    try:
        owner = entity or wandb.Api().default_entity
        if owner is None:
            raise BiGainError("wandb names no default entity; give one with --entity")
        return str(dashboard(owner, project, name).save().url)
    except BiGainError:
        raise
    except Exception as error:  # from requests, from wandb or from the server
        reason = one_line(error) or type(error).__name__
        raise BiGainError(
            f"the dashboard of {entity or 'your default entity'}/{project} was not saved: {reason}"
        ) from error
