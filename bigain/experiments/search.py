"""Which points of a grid to evaluate next, by Optuna's tree-structured Parzen estimator.

Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization". Everything that decides is
seeded and sequential, so the same search over the same losses asks for the same points again, and
one with more ``points`` asks for those of one with fewer among them.
"""

import random
from collections.abc import Callable, Mapping, Sequence

Point = tuple[int, ...]

STARTUP = 10  # points that are drawn before the estimator has enough losses to go by
PATIENCE = 50  # suggestions without a new point until one is drawn


def search(
    axes: Sequence[tuple[int, bool]],
    usable: Mapping[Point, str],
    loss: Callable[[Point], float],
    points: int,
    seed: int,
) -> None:
    """Evaluate the loss at the most promising points, each once.

    Args:
        axes: the number of values of each axis, and whether their order means something.
        usable: the points that may be evaluated, and what names their result: points of the same
            name have the same loss, and count as one.
        loss: evaluates a point; lower is better.
        points: how many are evaluated; all of them if there are no more.
    """
    distinct: dict[str, Point] = {}
    for point, name in usable.items():
        distinct.setdefault(name, point)
    if len(distinct) <= points:
        for point in distinct.values():
            loss(point)
        return
    import optuna  # only now, as few commands need it
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=STARTUP)
    )
    space: dict[str, optuna.distributions.BaseDistribution] = {
        str(place): optuna.distributions.IntDistribution(0, size - 1)
        if ordered
        else optuna.distributions.CategoricalDistribution(tuple(range(size)))
        for place, (size, ordered) in enumerate(axes)
    }
    draws = random.Random(seed)
    found: dict[str, float] = {}
    asked: set[Point] = set()
    idle = 0
    while len(found) < points:
        if len(found) < STARTUP or idle == PATIENCE:
            point = draws.choice([p for n, p in distinct.items() if n not in found])
            study.enqueue_trial({str(place): value for place, value in enumerate(point)})
        trial = study.ask(space)
        point = tuple(int(trial.params[name]) for name in space)
        idle += 1
        if point in asked:
            study.tell(trial, state=TrialState.FAIL)  # the estimator ignores it
        elif point not in usable:
            study.tell(trial, state=TrialState.PRUNED)  # worse than any point that is evaluated
        else:
            name = usable[point]
            if name not in found:
                found[name], idle = loss(point), 0
            study.tell(trial, found[name])
        asked.add(point)
