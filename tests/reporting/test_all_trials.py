"""The errors of every class and timestep come from runs that still hold them all."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bigain.errors import BiGainError
from bigain.reporting import all_trials


def test_runs_without_all_trials_are_refused(monkeypatch):
    whole = np.zeros(10 * 20)
    rows = pd.DataFrame({"trials": [whole, whole], "labels": [[0], [1]]})
    job = SimpleNamespace(
        run_path="a run", ids=["a", "b"], dataset=SimpleNamespace(classes="0123456789")
    )
    monkeypatch.setattr(all_trials, "job_of", lambda *_: job)
    monkeypatch.setattr(all_trials.Run, "open", lambda _: SimpleNamespace(require=lambda ids: rows))
    assert all_trials.read("toy", []).trials.shape == (2, 10, 20)
    left: list = [whole, np.zeros(0)]  # the second as a bundle leaves it
    rows["trials"] = left
    with pytest.raises(BiGainError, match=r"a run no longer holds the trials .*results="):
        all_trials.read("toy", [])
