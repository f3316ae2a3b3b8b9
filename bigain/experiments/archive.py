"""Finished runs made small enough to keep in the repository."""

from collections.abc import Iterable

from bigain.errors import BiGainError
from bigain.experiments.experiment_files import Entry
from bigain.store import run_images


def archive(entries: Iterable[Entry]) -> int:
    """Compact each finished run, and remove generated images once they are scored.

    A run's rows, scores and contact sheet stay, so tables and figures build without its images.
    Its record "archived" says how many were removed; remove that to draw them again.

    Returns:
        How many entries are finished.

    Raises:
        LockedError: if a process is working on one of the runs.
    """
    done = 0
    for entry in entries:
        try:
            job = entry.job
            if not job.run_path.exists():
                continue
            run = job.run()
        except BiGainError:  # such as data that are not on this machine
            continue
        with run.lock():
            if job.task.unfinished(run, job.ids):
                continue
            run.compact()
            if job.scoring is not None:
                if not job.scoring.complete(run, len(job.ids)):
                    continue
                before = (run.read_record(run_images.ARCHIVED) or {"images": 0})["images"]
                run.record(run_images.ARCHIVED, {"images": max(before, len(job.ids))})
                for path in run_images.files(run, job.ids):
                    path.unlink(missing_ok=True)
            done += 1
    return done
