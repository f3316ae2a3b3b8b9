"""Weights & Biases: one wandb run per configuration, whose id is the run's fingerprint.

A job with a start, which leaves out the first images, gets a wandb run of its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from bigain.errors import one_line, shell
from bigain.experiments.job import Job
from bigain.loggers import run_report
from bigain.store.runs import Run

if TYPE_CHECKING:
    from wandb import Settings

MODES = ("online", "offline")
INSTALL = "wandb is not installed; pip install -e '.[wandb]' installs it"
LOGIN = "wandb has no login; `wandb login` makes one, and WANDB_MODE=offline needs none"
UPLOAD = 300  # seconds that an upload may take; what is not sent by then stays on disk to be synced
SAMPLES = 64  # number of generated images to show


@dataclass(frozen=True)
class WandB:
    """Logs a finished run's configuration, numbers, table of images and pictures.

    A wandb step is a number of images, so a run that grows gets one wandb row per size, and a run
    that is logged again gets no row twice.

    Args:
        project: the wandb project.
        entity: owner of the project; None for wandb's own setting.
        mode: "online", "offline", or None for wandb's own setting.
        dir: where wandb keeps its files; None for wandb's own setting.

    Raises:
        ValueError: if the mode is any other.
    """

    project: str = "bigain"
    entity: str | None = None
    mode: str | None = None
    dir: str | None = None

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise ValueError(f"mode must be null or one of {', '.join(MODES)}; got {self.mode!r}")

    def problem(self) -> str | None:
        return problem(self.mode)

    def finished(self, job: Job, run: Run) -> str:
        import wandb

        ids, numbers = job.ids, run_report.numbers(job)
        if self.dir is not None:
            Path(self.dir).mkdir(parents=True, exist_ok=True)
        groups = ("model", "compressor", "dataset", "task")
        part = f"-from-{job.setup.start}" if job.setup.start else ""
        logged = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,  # type: ignore[arg-type]
            dir=self.dir,
            id=run.fingerprint + part,
            resume="allow",
            name=run.path.name.removesuffix(f"-{run.fingerprint}") + part,
            group=job.settings.sweep,
            job_type=job.task.name,
            tags=[job.setup.names[group] for group in groups],
            config=run_report.description(job, run),
            settings=_settings(),
        )
        try:
            if logged.step <= len(ids):
                table = run_report.images(job, run)
                media = {
                    **({} if table is None else {"images": wandb.Table(dataframe=table)}),
                    **{n: wandb.Image(str(p)) for n, p in run_report.figures(job, run).items()},
                    **_samples(job, run),
                }
                logged.log({**numbers, **run_report.strength(job), **media}, step=len(ids))
            else:  # an earlier session logged this size, but the scores may be new
                logged.summary.update(numbers)
            offline = logged.offline
            where = str(Path(logged.dir).parent) if offline else str(logged.url)
        except BaseException:
            logged.finish(exit_code=1)
            raise
        logged.finish()
        return f"{shell('wandb', 'sync', where)} uploads it" if offline else where


def problem(mode: str | None = None) -> str | None:
    """Why wandb cannot log in ``mode``, in one line; None if it can.

    It neither prompts the user nor contacts the server.
    """
    try:
        import wandb
        from wandb.sdk.lib import wbauth
    except ImportError:
        return INSTALL
    try:
        settings = wandb.setup(_settings()).settings
        mode = mode or settings.mode
        if mode == "disabled":
            return "wandb is disabled (WANDB_MODE=disabled)"
        if mode in ("offline", "dryrun"):
            return None
        token = getattr(settings, "identity_token_file", None)
        key = settings.api_key or wbauth.read_netrc_auth(host=settings.base_url)
    except Exception as error:  # such as a damaged settings file or a malformed key
        return f"wandb: {one_line(error)}"
    return None if key or token else LOGIN


def _samples(job: Job, run: Run) -> dict[str, Any]:
    """The first generated images with their prompts as captions."""
    import wandb

    found = [
        wandb.Image(str(s) if isinstance(s, Path) else Image.fromarray(s), caption=prompt)
        for s, prompt in run_report.samples(job, run, SAMPLES)
    ]
    return {"samples": found} if found else {}


def _settings() -> "Settings":
    """No console output, and nothing about this process, which may not have computed the run.

    SageMaker's integration would give the run another id, and log its environment.
    """
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
        x_save_requirements=False,
        sagemaker_disable=True,
        host="",
        finish_timeout=UPLOAD,
        finish_timeout_raises=True,
    )
