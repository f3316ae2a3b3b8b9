"""Pictures of a single run, drawn as it finishes."""

import sys

from bigain.errors import BiGainError
from bigain.experiments.job import Job
from bigain.reporting.maps import draw_maps
from bigain.store.runs import Run


def draw_run(job: Job, run: Run) -> None:
    """Draw which tokens a traced run merged or dropped, one picture per timestep, and say where.

    The pictures show the first compressed block and lie in the run's folder. A bundle keeps only
    what tables and figures read, so a run in one is not drawn again. The run is complete without
    pictures, and an error is only a line on stderr.
    """
    name = job.setup.names["compressor"]
    title = f"{job.setup.names['model']}, {job.setup.names['dataset']}"
    try:
        frame = run.require(job.ids)
        if not frame["slots"].map(len).all():
            print(
                "  no merge map: the run is in a bundle, which keeps what tables and figures read"
            )
            return
        for timestep in map(int, frame.iloc[0]["timesteps"]):
            own = run.path / f"tokens-t{timestep}"
            draw_maps({name: frame}, own, title, timestep=timestep)
            print(f"  merge map: {own}-maps.png")
    except BiGainError as error:
        print(f"{name}: no merge map is drawn: {error}", file=sys.stderr)
