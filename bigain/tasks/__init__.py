"""What can be done with a model: each task implements `bigain.tasks.base.Task`."""

import bigain.utils.experiments_extra  # noqa: F401 (first, as it says what to install)

# isort: split
from bigain.tasks.base import Task
from bigain.tasks.classify import Classify
from bigain.tasks.evaluate_images import EvaluateImages
from bigain.tasks.generate import Generate
from bigain.tasks.profile import Profile
from bigain.tasks.trace import Trace
from bigain.tasks.tune import Tune

__all__ = ["TASKS", "Classify", "EvaluateImages", "Generate", "Profile", "Task", "Trace", "Tune"]

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Classify, Generate, EvaluateImages, Profile, Trace, Tune)
}
