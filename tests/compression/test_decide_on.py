"""Which tokens decide: those before a block's norm, or those that its self-attention is given."""

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from bigain import compress
from bigain.compression import architecture_of
from bigain.compression.batch_groups import Groups
from bigain.compression.sharing import Sharing
from bigain.compressors import ABM, IEKVD, LGTM, Compressor, SiTo, ToDo, ToMe
from bigain.utils.paths import REPOSITORY
from tests import tiny_families

# Outputs of the published code's own patches of a DiT, which decide on attention's input. SiTo is
# not among them: its float16 similarities tie.
OFFICIAL = {
    "tome_0.5": ToMe(0.5, destinations="first"),
    "tome_0.7": ToMe(0.7, destinations="first"),
    "lgtm_0.5": LGTM(0.5),
    "lgtm_0.7": LGTM(0.7),
    "lgtm_official_0.5": LGTM(0.5, cells="official"),
    "lgtm_official_0.7": LGTM(0.7, cells="official"),
    "lgtm_official_l2norm_0.5": LGTM(0.5, cells="official", score="l2_norm"),
    "abm_0.5": ABM(0.5),
    "abm_sum_0.5": ABM(0.5, aggregate="sum"),
    "tome_mlerp_0.5": ToMe(0.5, destinations="first", merge="mlerp"),
    "tome_prune_0.5": ToMe(0.5, destinations="first", merge="keep"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_published_code_on_a_dit(dit, golden_folder, name):
    wanted = load_file(golden_folder / "tiny_dit_official.safetensors")
    with compress(dit.model, OFFICIAL[name], blocks="all") as handle:
        assert handle.decide_on == "attention_input"
        found = dit()
    assert_close(found, wanted[f"out.{name}"], rtol=0, atol=1e-5)


def test_the_page_says_what_each_family_decides_on(unet, dit):
    page = (REPOSITORY / "docs" / "compatibility.md").read_text()
    table = page.split("## Families")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    said = {cells[0].strip("| `"): cells[3] for cells in rows}
    models = [unet.model, dit.model, *map(tiny_families.denoiser, tiny_families.FAMILIES)]
    assert said.keys() == {type(model).__name__ for model in models}
    for model in models:
        where = {"block_input": "the block's input", "attention_input": "attention's input"}
        assert said[type(model).__name__] == where[architecture_of(model).decide_on]


@pytest.mark.parametrize("compressor", [ToMe(0.5, destinations="first"), LGTM(0.5), SiTo(0.5)])
@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_the_two_decide_differently(kind, compressor, request):
    golden, outputs = request.getfixturevalue(kind), []
    for where in ("block_input", "attention_input", "default"):
        with compress(golden.model, compressor, blocks="all", decide_on=where) as handle:
            outputs.append(golden())
            usual = handle.decide_on
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3
    assert torch.equal(outputs[2], outputs[usual == "attention_input"])


@pytest.mark.parametrize("compressor", [ToDo(2), IEKVD(2)])
def test_what_looks_at_no_token_decides_alike(dit, compressor):
    assert not compressor.content_dependent
    outputs = []
    for where in ("block_input", "attention_input"):
        with compress(dit.model, compressor, decide_on=where):
            outputs.append(dit())
    assert torch.equal(*outputs)


@pytest.mark.parametrize("kind", ["unet", "dit"])
@pytest.mark.parametrize(
    "sites", [["self_attention"], ["mlp"], ["self_attention", "mlp"]], ids="+".join
)
@pytest.mark.parametrize("compressor", [LGTM(0.5), ToMe(0.5)], ids=["lgtm", "tome"])
def test_sharing_changes_nothing(
    kind: str, sites: list[str], compressor: Compressor, request: pytest.FixtureRequest
) -> None:
    """Where attention sees the class, nothing is planned once for all classes."""
    golden = request.getfixturevalue(kind).double()
    (latent, t, condition) = (golden.inputs[name] for name in _names(kind))
    repeated = {_names(kind)[0]: latent[:1].expand(3, -1, -1, -1), _names(kind)[1]: t[:1].expand(3)}
    keys = torch.full((3,), 7)
    where = {"blocks": "all", "sites": sites, "decide_on": "attention_input"}
    with compress(golden.model, compressor, **where) as handle:
        handle.sample_keys = keys
        plain = golden(**repeated)
        with Sharing(golden.model, handle) as sharing:
            sharing.conditions(condition)
            every = torch.zeros(3, dtype=torch.int64)
            groups = Groups(torch.zeros(1, dtype=torch.int64), every)
            given = sharing.batch(torch.arange(3), groups, keys)
            shared = golden(**repeated, **{_names(kind)[2]: given})
    assert_close(shared, plain, rtol=0, atol=1e-9)


def _names(kind: str) -> tuple[str, str, str]:
    if kind == "unet":
        return "sample", "timestep", "encoder_hidden_states"
    return "hidden_states", "timestep", "class_labels"


def test_other_words_are_refused(dit):
    with pytest.raises(ValueError, match="decide_on must be default or one of block_input"):
        compress(dit.model, LGTM(0.5), decide_on="attention")


def test_a_run_keeps_its_name_unless_another_choice_changes_its_rows(job, overrides):
    def path(*more: str) -> str:
        return str(job([*overrides, *more]).run_path)

    usual = path("compressor=lgtm")
    assert path("compressor=lgtm", "decide_on=attention_input") == usual
    assert path("compressor=lgtm", "decide_on=block_input") != usual
    named = job([*overrides, "compressor=lgtm"]).identity["compression"]
    assert named["decide_on"] == "attention_input"  # block_input, the first default, has no name
    assert path("compressor=todo") == path("compressor=todo", "decide_on=attention_input")
