"""The learning rate and the estimator's annealing as pure functions of the iteration, so that resuming has no state."""

import math

from bcdnet.training.recipe import StepConfig


def learning_rate(step: StepConfig, iteration: int, total: int, warmup: int) -> float:
    """The rate that optimiser step `iteration` (0-based, of `total`) uses.

    Linear from `warmup_lr` at iteration 0 to `lr` at iteration `warmup`; from there to `min_lr` at iteration `total`,
    which is never run: by a half cosine, on a straight line, or not at all (`schedule: constant`).
    """
    if iteration < warmup:
        return step.warmup_lr + (step.lr - step.warmup_lr) * iteration / warmup
    done = (iteration - warmup) / max(1, total - warmup)
    if step.schedule == "constant":
        return step.lr
    left = 1 - done if step.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return step.min_lr + (step.lr - step.min_lr) * left


def warmup_iterations(step: StepConfig, iterations_per_epoch: int, total: int) -> int:
    """The warm-up's length; at most half of the step, so that a shortened run (`epochs=1`) still reaches its rate."""
    wanted = step.warmup_iterations or round(step.warmup_epochs * iterations_per_epoch)
    return min(wanted, total // 2)


def annealing(step: StepConfig, iteration: int, total: int) -> float:
    """The estimators' `progress` at `iteration`: linear between the two ends of `step.anneal`."""
    first, last = step.anneal
    done = iteration / max(1, total - 1)
    # Rounding may leave [0, 1] by a last bit, which `set_progress` refuses.
    return min(1.0, max(0.0, first + (last - first) * done))
