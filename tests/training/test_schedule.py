"""Learning rates and annealing at chosen iterations."""

import math

import pytest

from bcdnet.training.recipe import StepConfig
from bcdnet.training.schedule import annealing, learning_rate, warmup_iterations


def step(**changes: object) -> StepConfig:
    return StepConfig(**{"name": "s", "lr": 4e-3, "epochs": 1, **changes})  # type: ignore[arg-type]


def test_cosine_after_a_linear_warm_up_as_in_the_paper() -> None:
    paper = step(warmup_lr=1e-3, warmup_iterations=15_000)

    def rate(iteration: int) -> float:
        return learning_rate(paper, iteration, 300_000, 15_000)

    assert rate(0) == 1e-3
    assert rate(7_500) == pytest.approx(2.5e-3)
    assert rate(15_000) == 4e-3
    middle = 15_000 + (300_000 - 15_000) // 2
    assert rate(middle) == pytest.approx(2e-3)
    assert rate(15_000 + (300_000 - 15_000) // 4) == pytest.approx(4e-3 * 0.5 * (1 + math.sqrt(0.5)))
    assert 0 < rate(299_999) < 1e-9


def test_linear_and_constant() -> None:
    linear = step(schedule="linear", lr=1.0, min_lr=0.2)
    assert [learning_rate(linear, iteration, 4, 0) for iteration in range(5)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    assert {learning_rate(step(schedule="constant"), iteration, 9, 0) for iteration in range(9)} == {4e-3}


def test_a_constant_rate_is_warmed_up_to() -> None:
    constant = step(schedule="constant", warmup_lr=1e-3)
    rates = [learning_rate(constant, iteration, 6, 3) for iteration in range(6)]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 4e-3, 4e-3])


def test_warm_up_in_epochs_and_its_limit() -> None:
    assert warmup_iterations(step(warmup_epochs=1.5), 10, 100) == 15
    assert warmup_iterations(step(warmup_iterations=30), 10, 100) == 30
    assert warmup_iterations(step(warmup_epochs=5), 10, 10) == 5
    assert warmup_iterations(step(), 10, 100) == 0


def test_annealing_runs_between_its_ends() -> None:
    assert [annealing(step(), iteration, 5) for iteration in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert annealing(step(anneal=(1, 1)), 3, 5) == 1
    assert annealing(step(), 0, 1) == 0


@pytest.mark.parametrize("ends", [(0.08, 1), (0.03, 0), (1, 0.07)])
def test_annealing_stays_a_share(ends: tuple[float, float]) -> None:
    """Rounding took some lengths past the end, at the last iteration of a training."""
    for total in range(2, 60):
        shares = [annealing(step(anneal=ends), iteration, total) for iteration in range(total)]
        assert min(shares) >= 0 and max(shares) <= 1
        assert (shares[0], shares[-1]) == pytest.approx(ends)
