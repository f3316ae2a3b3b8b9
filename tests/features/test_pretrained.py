"""Networks of the hub that cannot be had are told in one line."""

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from bigain.errors import BiGainError
from bigain.features import pretrained
from bigain.utils import hub


def test_a_network_that_cannot_be_fetched_names_its_setting(monkeypatch):
    def fail(*_, **__):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(BiGainError, match=r"evaluation\.clip=FOLDER"):
        pretrained.folder("some/clip", "evaluation.clip")
