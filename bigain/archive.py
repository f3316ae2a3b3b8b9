"""Finished runs made small enough to keep in the repository."""

import shutil
from collections.abc import Iterable

from bigain.errors import BiGainError
from bigain.experiments import Cell
from bigain.tasks import generate


def archive(cells: Iterable[Cell]) -> int:
    """Compact each finished run, and remove generated images once they are scored.

    A run's rows, scores and contact sheet stay, so tables and figures build without its images.
    Its record "archived" says how many were removed; remove that to draw them again.

    Returns:
        How many runs are finished.
    """
    done = 0
    for cell in cells:
        try:
            job = cell.job
            if not job.run_path.exists() or job.task.unfinished(job.run(), job.ids):
                continue
        except BiGainError:  # such as data that are not on this machine
            continue
        run = job.run()
        run.compact()
        images = generate.folder(run)
        if job.scoring is not None and images.is_dir():
            if run.read_record(job.scoring.record(len(job.ids))) is None:
                continue
            run.record(generate.ARCHIVED, {"images": len(job.ids)})
            shutil.rmtree(images)
        done += 1
    return done
