"""The race: its rule on known errors, and that nothing but an image's own errors decides."""

import random
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from bigain.backbones.schedule import NoiseSchedule
from bigain.compression.sharing import Sharing
from bigain.errors import BiGainError
from bigain.experiments import runner
from bigain.experiments.composition import composed
from bigain.experiments.configuration import settings_of
from bigain.experiments.job import Job
from bigain.metrics.ranking import finalists_first
from bigain.profiling.flops import count
from bigain.tasks.classify import Classify
from bigain.tasks.racing import FIRST, PARTS, SCALE, Entrant, Race, Track, order, raced, tolerance
from bigain.tasks.trials import keyed_noise
from tests.runs import assert_same_table, start

ROUNDS = 20


def errors_of(classes: int, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    """Errors [K, S] in the order of the rounds, with class means that far apart."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(classes, ROUNDS)) + spread * rng.permutation(classes)[:, None]


# The rule


@pytest.mark.parametrize("total", [1, 2, 3, 5, 8, 19, 20, 21, 40, 50, 1000])
def test_every_timestep_has_its_round(total):
    assert sorted(order(total)) == list(range(total))


def test_the_first_rounds_lie_in_all_parts_of_the_grid():
    assert order(20) == list(PARTS)
    for total in (20, 50, 100):
        assert {3 * p // total for p in order(total)[:3]} == {0, 1, 2}


def test_tolerance_follows_the_share_of_images_and_what_is_known_of_the_variance():
    assert tolerance(0.5, 9) == 0
    assert tolerance(0.99, 1e9) == pytest.approx(SCALE * 2.326, abs=1e-3)
    assert tolerance(0.999, 9) > tolerance(0.99, 9) > tolerance(0.99, 90)


def test_a_class_far_behind_drops_out_at_once_and_close_ones_do_not():
    errors = errors_of(3, spread=0.0)
    errors[2] += 50
    race = Race(3, ROUNDS, 0.99)
    for n in range(FIRST):
        assert race.alive.tolist() == [0, 1, 2] and race.round == n
        race.enter(errors[race.alive, n])
    assert race.alive.tolist() == [0, 1] and not race.finished
    assert np.isnan(race.errors[:, FIRST:]).all()


def test_equal_classes_race_to_the_end_and_the_first_wins():
    """Such as two classes with one prompt (docs/fidelity.md, trap 13)."""
    errors = errors_of(4, spread=30)
    best = int(errors.mean(1).argmin())
    errors = np.vstack([errors, errors[best]])
    race = raced(errors, 0.99)
    assert race.round == ROUNDS
    assert race.alive.tolist() == [best]
    assert np.isfinite(race.errors[[best, 4]]).all()


@pytest.mark.parametrize("classes", [1, 2, 10, 37])
def test_a_strict_race_has_the_answer_of_all_trials(classes):
    for seed in range(20):
        errors = errors_of(classes, 0.05, seed)
        race = raced(errors, 1 - 1e-12)
        assert race.alive.tolist() == [errors.mean(1).argmin()]


def test_a_lax_race_takes_fewer_trials_and_is_sometimes_wrong():
    strict, lax, wrong = 0, 0, 0
    for seed in range(200):
        errors = errors_of(10, 0.5, seed)
        careful, careless = raced(errors, 0.999), raced(errors, 0.6)
        strict += int(np.isfinite(careful.errors).sum())
        lax += int(np.isfinite(careless.errors).sum())
        wrong += careless.alive.tolist() != [errors.mean(1).argmin()]
        assert careful.round <= ROUNDS and np.isfinite(careful.errors).sum() <= errors.size
    assert lax < 0.6 * strict and 0 < wrong < 100


def test_classes_that_dropped_out_are_ranked_behind_those_that_raced_on():
    for seed in range(50):
        race = raced(errors_of(10, 0.3, seed), 0.95)
        samples = np.isfinite(race.errors).sum(1)
        ranking = finalists_first(np.nanmean(race.errors, 1)[None], samples[None])[0]
        assert ranking[0] == race.alive[0]
        assert sorted(ranking) == list(range(10))


# The evaluations


def race_job(model: str, *more: str) -> Job:
    chosen = [f"model={model}", "task.strategy=race", "limit=3", "task.samples=[2,4]"]
    return Job(settings_of(composed([*chosen, "task.agreement=0.9", *more])))


@pytest.fixture(scope="module", params=["sd_fashion", "dit_fashion"])
def loaded(request):
    job = race_job(request.param)
    return job, runner.load(job)


def trials_of(loaded, batch_size: int, ids=range(3)) -> dict[str, np.ndarray]:
    job, backbone = loaded
    images = torch.stack([job.dataset[i].image for i in ids])
    names = [job.ids[i] for i in ids]
    latents = backbone.encode(images)
    noise, keys = keyed_noise(job.task.trials, latents, names, 0)
    labels = [[0]] * len(names)
    with Sharing(backbone.denoiser, None) as sharing:
        sharing.conditions(backbone.condition(job.dataset))
        track = job.task.track(backbone, sharing, batch_size, job.setup.smallest_batch)
        entrants = map(Entrant, names, labels, latents, noise, keys)
        found = {e.image_id: scores.trials[0].numpy() for e, scores in track.run(entrants)}
    assert len(found) == len(names)
    return found


def test_neither_batch_nor_company_nor_order_changes_a_bit(loaded):
    whole = trials_of(loaded, 64)
    for batch_size, ids in ((1, [2]), (7, [2, 0, 1]), (16, [1, 2])):
        for name, trials in trials_of(loaded, batch_size, ids).items():
            np.testing.assert_array_equal(trials, whole[name])


def test_the_race_is_the_rule_on_the_errors_of_the_full_protocol(loaded):
    """The same trials, decided elsewhere, from errors that the stages measured."""
    job, backbone = loaded
    latents = backbone.encode(torch.stack([job.dataset[i].image for i in range(3)]))
    full = Classify(samples=(2, 4), keep=(10, 1))
    noise, keys = keyed_noise(full.trials, latents, job.ids, 0)
    with Sharing(backbone.denoiser, None) as sharing:
        sharing.conditions(backbone.condition(job.dataset))
        stages = full.staged(backbone, sharing, 64, job.setup.smallest_batch)
        scores = stages.run(latents, noise, keys)
    rounds = job.task.rounds()
    for name, trials in trials_of(loaded, 64).items():
        errors = scores.trials[job.ids.index(name)].numpy()
        race = raced(errors[:, rounds].astype(float), job.task.agreement)
        np.testing.assert_array_equal(trials[:, rounds], race.errors.astype(np.float32))
        assert np.isnan(trials).any(), "no class dropped out"


# Whole runs


@pytest.fixture
def overrides(overrides) -> list[str]:
    chosen = [o for o in overrides if not o.startswith("task.keep")]
    return [*chosen, "task.samples=[2,4]", "task.strategy=race", "task.agreement=0.9"]


@pytest.mark.parametrize("compressor", ["none", "tome", "lgtm_iekvd", "anchored"])
def test_batches_and_shards_change_nothing(overrides, compressor, tmp_path, run):
    chosen = [*overrides, f"compressor={compressor}"]
    whole = run(chosen)
    for size in (1, 7):
        other = run([*chosen, f"results={tmp_path}/b{size}", f"batch_size={size}"])
        assert_same_table(whole, other)
        assert list(map(list, whole.rows()["samples"])) == list(map(list, other.rows()["samples"]))
    for index in (1, 0):
        sharded = run([*chosen, f"results={tmp_path}/s", "shards=2", f"shard={index}"])
    assert_same_table(whole, sharded)
    tried = whole.rows()["samples"].map(sum)
    assert (tried <= 40).all() and (tried < 40).any()


def test_the_flops_of_an_anchored_race_are_those_of_its_rounds(overrides, run, job):
    chosen = [*overrides, "compressor=anchored", "limit=8"]
    assert job(chosen).flops is None  # nobody knows beforehand
    done = run(chosen)
    samples = done.rows()["samples"]
    anchors = sum(map(max, samples)) / sum(map(sum, samples))
    assert 0.1 < anchors < 0.5
    own = job(chosen)
    want = count(own.skeleton, own.compressor, anchor_share=anchors, blocks="all")
    assert done.read_record("cost")["gflops"] == pytest.approx(want.total / 1e9)


def test_a_killed_race_resumes(overrides, tmp_path, run, job):
    chosen = [*overrides, "limit=120", "batch_size=4"]
    path = job(chosen).run_path
    process = start(*chosen, folder=tmp_path, output=tmp_path / "output")
    while not list(path.glob("part-*")):
        assert process.is_alive(), (tmp_path / "output").read_text()
        time.sleep(0.001)
    time.sleep(random.Random(0).random() * 0.05)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
    resumed = run(chosen)
    kept = 120 - resumed.read_record("sessions")["sessions"][-1]["images"]
    assert 0 < kept < 120
    assert_same_table(run([*chosen, f"results={tmp_path}/whole"]), resumed)


def test_the_same_noise_as_in_the_stages(overrides, tmp_path, run):
    """What both try is equal, so that the two are compared on the same noise."""
    staged = [o for o in overrides if not o.startswith(("task.strategy", "task.agreement"))]
    full = run([*staged, "task.keep=[10,1]", f"results={tmp_path}/full"]).rows()
    raced_rows = run(overrides).rows()
    for ours, theirs in zip(raced_rows["trials"], full["trials"], strict=True):
        both = np.isfinite(ours)
        assert 0 < both.sum() < both.size
        np.testing.assert_allclose(np.asarray(ours)[both], np.asarray(theirs)[both], atol=1e-5)


class Fake:
    """A model, and its sharing, whose errors are those of the classes plus some noise."""

    schedule = NoiseSchedule({}, torch.linspace(0.9, 0.1, 1000))
    denoiser = torch.nn.Identity()
    classes = 10
    plans_together = False

    def batch(self, classes, groups, keys, together):
        return classes

    def predict(self, x, t, condition):
        eps = x / (1 - self.schedule.at(t)).sqrt().view(-1, 1, 1, 1)
        return eps + (0.3 * condition.view(-1, 1, 1, 1) + eps).sin()


def entrants_of(count: int):
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        noise = torch.randn(ROUNDS, 1, 2, 2, generator=generator)
        yield Entrant(str(i), [0], torch.zeros(1, 2, 2), noise, torch.tensor(i))


def fake_track(model: Fake, batch_size: int) -> Track:
    times, rounds = list(range(25, 1000, 50)), order(ROUNDS)
    return Track(model, model, "l2", times, [1.0] * len(times), rounds, 0.95, batch_size)


def test_a_race_weighs_the_errors_of_its_timesteps():
    """In a batch, images are at different timesteps."""
    plain = replace(fake_track(Fake(), 16), agreement=1 - 1e-12)
    powers = [2.0 ** (s % 3) for s in range(ROUNDS)]
    found, expected = (
        {e.image_id: scores.trials[0] for e, scores in track.run(entrants_of(9))}
        for track in (replace(plain, weights=powers), plain)
    )
    assert len(found) == 9
    for image_id, trials in found.items():
        both = trials.isfinite() & expected[image_id].isfinite()
        assert both.sum() > ROUNDS
        assert torch.equal(trials[both], (expected[image_id] * torch.tensor(powers))[both])


@pytest.mark.parametrize("batch_size", [1, 16, 64])
def test_batches_are_full_as_long_as_images_wait_and_none_is_wasted(batch_size):
    waiting, told, left = True, [], []

    def images():
        nonlocal waiting
        yield from entrants_of(60)
        waiting = False

    def evaluated(count):
        told.append(count)
        if waiting:
            left.append(count)

    found = list(fake_track(Fake(), batch_size).run(images(), evaluated))
    assert sorted(int(e.image_id) for e, _ in found) == list(range(60))
    assert len(left) > 5 and set(left) == {batch_size}
    assert sum(told) == sum(int(scores.samples.sum()) for _, scores in found) < 60 * 200


@pytest.mark.parametrize("batch_size", [1, 4, 16, 64])
def test_rounds_that_share_a_plan_have_the_first_class_in_every_batch(batch_size):
    """So that the plan, made for the first sample of a group, is the same wherever batches end."""

    class Together(Fake):
        plans_together = True

        def batch(self, classes, groups, keys, together):
            size = len(classes)
            assert size <= max(batch_size, 2)
            for number in set(together.group.tolist()):
                (places,) = torch.where(together.group == number)
                first = int(together.first[number])
                assert first == places[0] and keys[places].unique().numel() == 1
                seen.setdefault(int(keys[first]), []).append(classes[places].tolist())
            return classes

    seen: dict[int, list[list[int]]] = {}
    told: list[int] = []
    found = list(fake_track(Together(), batch_size).run(entrants_of(20), told.append))
    apart = list(fake_track(Fake(), batch_size).run(entrants_of(20)))
    ours, theirs = ({e.image_id: s for e, s in one} for one in (found, apart))
    for name, scores in ours.items():
        assert torch.equal(scores.trials.nan_to_num(-1), theirs[name].trials.nan_to_num(-1))
        for classes in seen[int(name)]:
            assert classes == sorted(classes)
        if batch_size >= 10:
            assert seen[int(name)][0] == list(range(10))
        else:
            assert all(classes[0] == 0 for classes in seen[int(name)][:2])
    assert sum(told) == sum(int(scores.samples.sum()) for scores in ours.values())


def test_nan_is_refused():
    class Broken(Fake):
        def predict(self, x, t, condition):
            return x * torch.where(condition == 3, torch.nan, 1.0).view(-1, 1, 1, 1)

    with pytest.raises(BiGainError, match="NaN or infinity"):
        list(fake_track(Broken(), 4).run(entrants_of(2)))


def test_agreement_and_strategy_are_part_of_the_identity_only_when_chosen(overrides, job):
    staged = [o for o in overrides if not o.startswith(("task.strategy", "task.agreement"))]
    assert (
        job([*staged, "task.strategy=staged", "task.agreement=0.99"]).run_path
        == job(staged).run_path
    )
    assert job(overrides).run_path != job(staged).run_path
    assert job([*overrides, "task.agreement=0.95"]).run_path != job(overrides).run_path
