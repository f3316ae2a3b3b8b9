"""What a trace sees of each compressor, on a small DiT and on the golden U-Net."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bigain import compress
from bigain.compression import Attachment
from bigain.compression.architectures import DECIDE_ON
from bigain.compressors import (
    IEKVD,
    LGTM,
    Cached,
    Compose,
    Compressor,
    FrequencyFilter,
    Plan,
    SiTo,
    ToDo,
    TokenGrid,
    TokenMap,
    ToMe,
)
from bigain.errors import BiGainError
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.tasks.trace import Trace, shrink, trace
from bigain.tasks.trace_rows import ALONE, GONE, KEPT
from bigain.tasks.watching import coarse_sides
from bigain.utils.paths import REPOSITORY
from tests.tiny_pipelines import TextUNet

COMPRESSORS = sorted(
    {p.stem for p in (REPOSITORY / "configs" / "compressor").glob("*.yaml")} - {"anchored", "none"}
)


@dataclass(frozen=True)
class Pairs(Compressor):
    """Every odd token of a row follows its left neighbour."""

    prune: bool = False

    @property
    def shortens(self):
        return frozenset({"queries"})

    def plan(self, x, grid, t=None, rng=None, block=0):
        token = torch.arange(grid.tokens)
        destinations = token - (token % grid.width) % 2
        size = grid.height * ((grid.width + 1) // 2)
        return Plan(
            TokenMap.from_destinations(
                destinations.expand(len(x), -1), size, "keep" if self.prune else "mean"
            )
        )


@pytest.fixture
def overrides(small_dit, tmp_path):
    chosen = ["task=trace", f"model.path={small_dit}", "blocks=all", f"results={tmp_path}"]
    return [*chosen, "limit=3"]


@pytest.fixture
def look(unet):
    """The rows of the golden U-Net's three samples under a compressor, as arrays."""

    def traced(compressor, ids=("a", "b", "c"), times=(50, 900), **where):
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(3, *unet.inputs["sample"].shape[1:], generator=generator)
        picked = ["abc".index(i) for i in ids]
        text = unet.inputs["encoder_hidden_states"][picked]
        with compress(unet.model, compressor, **where) as attachment:
            planner, hooks = attachment.planner, unet.hooks()
            found = trace(
                TextUNet(unet.model), Trace(times, 4), latents[picked], text, ids, 0, attachment
            )
            assert attachment.planner is planner and unet.hooks() == hooks
        return [{k: np.array(v) for k, v in row.items()} for row in found]

    return traced


def sizes(row):
    return row["heights"] * row["widths"]


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_every_compressor_is_traced(overrides, compressor, run, capsys):
    frame = run([*overrides, f"compressor={compressor}"]).rows()
    assert len(frame) == 3 and frame["evaluations"].tolist() == [3] * 3
    for _, row in frame.iterrows():
        assert row["timesteps"].tolist() == [125, 525, 925]
        assert row["blocks"].tolist() == [0, 1]
        assert row["heights"].tolist() == row["widths"].tolist() == [8, 8]
        assert len(row["slots"]) == len(row["roles"]) == 3 * 2 * 64
        fields = len(row["fields"])
        assert len(row["before"]) == 3 * 2 * 10
        assert len(row["after"]) == len(row["product"]) == 3 * 2 * fields * 10
        assert row["image_shape"].tolist() == [32, 32, 1] and len(row["image"]) == 1024
        assert row["image"].min() == 0 and row["image"].max() > 100
        slots, roles = (np.reshape(row[key], (6, 64)) for key in ("slots", "roles"))
        for one, role in zip(slots, roles, strict=True):
            counts = np.bincount(one)
            assert ((counts[one] == 1) == (role == ALONE)).all()
            assert (np.bincount(one[role == KEPT], minlength=1) <= 1).all()
    assert f"{compressor}: 3 images at t = 125, 525, 925" in capsys.readouterr().out


def test_a_trace_is_the_same_in_any_batch(overrides, run, tmp_path):
    chosen = [*overrides, "compressor=tome"]
    whole = run(chosen).rows()
    alone = run([*chosen, f"results={tmp_path}/alone", "batch_size=1"]).rows()
    for key in ("slots", "roles", "image"):
        assert all(map(np.array_equal, whole[key], alone[key]))
    for key in ("before", "after", "product"):
        assert np.stack(whole[key]) == pytest.approx(np.stack(alone[key]), rel=1e-4, abs=1e-4)


def test_it_resumes(overrides, run, capsys):
    first = run([*overrides, "compressor=lgtm", "limit=2"])
    again = run([*overrides, "compressor=lgtm", "limit=4"])
    assert first.path == again.path and len(again.rows()) == 4
    capsys.readouterr()
    run([*overrides, "compressor=lgtm", "limit=4"])
    assert "nothing to compute" in capsys.readouterr().out


def test_without_a_compressor_there_is_nothing_to_trace(overrides, run, monkeypatch):
    monkeypatch.setattr("bigain.backbones.DiT.load", None)  # not even the weights are read
    with pytest.raises(BiGainError, match="choose one, as in compressor=lgtm"):
        run(overrides)


@pytest.mark.parametrize("change", ["task.timesteps=[125]", "task.bands=4", "seed=1"])
def test_what_changes_a_trace_changes_the_run(overrides, change, configure):
    chosen = [*overrides, "compressor=lgtm"]
    paths = {Job(settings_of(configure(o))).run_path for o in (chosen, [*chosen, change])}
    assert len(paths) == 2


def test_a_timestep_beyond_the_schedule_is_refused(overrides, run):
    with pytest.raises(BiGainError, match="t=1000 of a schedule of 1000; the last is 999"):
        run([*overrides, "compressor=lgtm", "task.timesteps=[5,1000]"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timesteps": []}, r"timesteps must be distinct whole numbers from 0, got \[\]"),
        ({"timesteps": [5, 5]}, "distinct"),
        ({"timesteps": [-1]}, "from 0"),
        ({"timesteps": [0.5]}, "whole numbers"),
        ({"bands": 0}, "bands must be a whole number from 1, got 0"),
    ],
)
def test_what_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"Trace: .*{message}|Trace: {message}"):
        Trace(**arguments)


def test_weights_that_give_nan_are_refused(overrides, save_dit, tmp_path, run):
    broken = save_dit(tmp_path / "broken")
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(path).items()}, path)
    with pytest.raises(BiGainError, match="NaN"):
        run([*overrides, "compressor=todo", f"model.path={broken}"])


def test_what_decides_may_be_attention_input(look):
    """Slots are those of the block itself, and what is left is measured on the same tokens."""
    block, attention = (look(ToDo(2), decide_on=on)[0] for on in DECIDE_ON)
    assert all(np.array_equal(block[key], attention[key]) for key in block)
    block, attention = (look(LGTM(0.5), times=(50,), decide_on=on)[0] for on in DECIDE_ON)
    assert np.array_equal(block["before"][:6], attention["before"][:6])
    assert not np.array_equal(block["slots"], attention["slots"])


def test_every_block_of_a_unet(look):
    row = look(LGTM(0.5), blocks="all")[0]
    assert len(row["blocks"]) == len(row["heights"]) > len(set(row["blocks"].tolist())) > 1
    assert (row["heights"] * row["blocks"] == row["heights"].max()).all()
    assert len(row["slots"]) == 2 * sizes(row).sum()
    starts = np.cumsum(sizes(row)) - sizes(row)
    for start, size in zip(starts, sizes(row), strict=True):
        slots = row["slots"][start : start + size]
        assert slots.max() + 1 == len(set(slots.tolist())) == size - size // 2


def test_pairs_are_seen_as_they_are(look):
    for prune in (False, True):
        row = look(Pairs(prune))[0]
        width = row["widths"][0]
        assert width % 2 == 0
        assert row["slots"].tolist() == 2 * len(row["blocks"]) * [
            n // 2 for n in range(sizes(row)[0])
        ]
        assert row["pruned"] == prune
        assert set(row["roles"][1::2].tolist()) == {GONE}
        if prune:
            assert set(row["roles"][::2].tolist()) == {KEPT}


def test_merging_is_a_projection_and_keeps_the_mean(look):
    for row in look(LGTM(0.5)):
        shape = (-1, 6)
        before, after, product = (row[k].reshape(shape) for k in ("before", "after", "product"))
        assert after.sum(1) == pytest.approx(product.sum(1), rel=1e-5)
        assert (after.sum(1) < before.sum(1)).all()
        assert after[:, 0] == pytest.approx(before[:, 0], rel=1e-5)


def test_draws_belong_to_samples(look):
    whole = look(ToMe(0.5))
    (alone,) = look(ToMe(0.5), ids=("b",))
    assert np.array_equal(whole[1]["slots"], alone["slots"])
    assert not np.array_equal(whole[0]["slots"], whole[1]["slots"])


def test_noise_belongs_to_the_timestep_not_to_its_place(look):
    both, late = look(SiTo(0.5))[0], look(SiTo(0.5), times=(900,))[0]
    assert np.array_equal(both["slots"][len(late["slots"]) :], late["slots"])


def test_a_reused_map_is_seen_in_every_block(look):
    def maps(compressor):
        row = look(compressor)[0]
        return row["slots"].reshape(2, len(row["blocks"]), -1)

    cached, own = maps(Cached(LGTM(0.5))), maps(LGTM(0.5))
    assert (cached == cached[:, :1]).all() and not (own == own[:, :1]).all()
    assert np.array_equal(cached[:, 0], own[:, 0])


def test_downsampling(look):
    nearest, mixed = look(ToDo(2))[0], look(IEKVD(2))[0]
    height, width = nearest["heights"][0], nearest["widths"][0]
    grid = np.arange(height * width).reshape(height, width)
    want = (grid // width // 2) * (width // 2) + grid % width // 2
    for row in (nearest, mixed):
        assert row["fields"].tolist() == ["keys_values"]
        assert (row["slots"].reshape(-1, height, width) == want).all()
    assert nearest["pruned"] and not mixed["pruned"]
    roles = nearest["roles"].reshape(-1, height, width)
    assert (roles[:, 1::2, 1::2] == KEPT).all() and (roles == KEPT).mean() == 0.25
    assert (mixed["roles"] == GONE).all()


def test_a_filter_joins_nothing_and_loses_its_band(look):
    row = look(FrequencyFilter("low"))[0]
    assert (row["roles"] == ALONE).all()
    assert row["after"] == pytest.approx(row["product"], rel=1e-5, abs=1e-6)
    before, after = (row[k].reshape(-1, 6) for k in ("before", "after"))
    assert after[:, 0] == pytest.approx(before[:, 0])
    assert (after[:, 4:] < 1e-6 * before[:, 4:]).all()


def test_both_fields_are_measured(look):
    both = look(Compose(LGTM(0.5), ToDo(2)))[0]
    assert both["fields"].tolist() == ["keys_values", "queries"]
    # in the first block at the first timestep all see the same tokens
    first = both["after"].reshape(-1, 2, 6)[0]
    assert first[0] == pytest.approx(look(ToDo(2))[0]["after"][:6], rel=1e-6)
    assert first[1] == pytest.approx(look(LGTM(0.5))[0]["after"][:6], rel=1e-6)
    assert np.array_equal(both["slots"][:64], look(LGTM(0.5))[0]["slots"][:64])


def test_an_error_leaves_the_model_as_it_was(unet):
    class Broken(TextUNet):
        def predict(self, x, t, condition):
            raise KeyboardInterrupt

    with compress(unet.model, LGTM(0.5)) as attachment:
        planner, hooks = attachment.planner, unet.hooks()
        latents = torch.randn(1, *unet.inputs["sample"].shape[1:])
        with pytest.raises(KeyboardInterrupt):
            trace(Broken(unet.model), Trace(), latents, torch.zeros(1), ["a"], 0, attachment)
        assert isinstance(attachment, Attachment)
        assert attachment.planner is planner and unet.hooks() == hooks


def test_coarse_sides():
    assert coarse_sides(TokenGrid(16, 16), 64) == (8, 8)
    assert coarse_sides(TokenGrid(7, 5), 6) == (3, 2)
    assert coarse_sides(TokenGrid(7, 5), 35) == (7, 5)
    with pytest.raises(ValueError, match="63 keys and values are no 16x16 token grid"):
        coarse_sides(TokenGrid(16, 16), 63)


def test_large_images_are_kept_small():
    assert shrink(torch.zeros(2, 3, 512, 512)).shape == (2, 3, 256, 256)
    assert shrink(torch.zeros(1, 1, 300, 200)).shape == (1, 1, 256, 171)
    image = torch.rand(1, 3, 256, 32)
    assert shrink(image) is image
