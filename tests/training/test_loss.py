"""The loss against the same sums in plain numpy."""

import numpy as np
import pytest
import torch

from bcdnet.training.loss import TrainingLoss
from bcdnet.training.recipe import DistillationConfig, StepConfig

FC = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
FC_DIST = np.array([[0.2, 0.1, -0.4], [1.0, 1.0, 2.0]])
TEACHER = np.array([[2.0, 0.0, -1.0], [-1.0, 0.5, 4.0]])
LABELS = np.array([0, 2])


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def label_term(logits: np.ndarray, smoothing: float) -> float:
    wanted = np.full((2, 3), smoothing / 3)
    wanted[[0, 1], LABELS] += 1 - smoothing
    return float(-(wanted * log_softmax(logits)).sum(1).mean())


def teacher_term(logits: np.ndarray, temperature: float) -> float:
    wanted = np.exp(log_softmax(TEACHER / temperature))
    return float(-(wanted * log_softmax(logits / temperature)).sum(1).mean()) * temperature**2


def loss(logits: torch.Tensor | tuple[torch.Tensor, ...], taught: bool, **changes: object) -> float:
    step = StepConfig(**{"name": "s", "lr": 1, "epochs": 1, **changes})  # type: ignore[arg-type]
    teacher = torch.tensor(TEACHER) if taught else None
    return float(TrainingLoss(step)(logits, torch.tensor(LABELS), teacher))  # type: ignore[arg-type]


PAIR = (torch.tensor(FC), torch.tensor(FC_DIST))


def test_two_heads_and_a_teacher_is_the_papers_loss() -> None:
    expected = (label_term(FC, 0.1) + teacher_term(FC_DIST, 1)) / 2
    assert loss(PAIR, taught=True) == pytest.approx(expected, rel=1e-6)


def test_weights_and_temperature() -> None:
    changes = {"distillation": DistillationConfig(weight=3, temperature=2), "label_weight": 0.5, "label_smoothing": 0.0}
    expected = (0.5 * label_term(FC, 0) + 3 * teacher_term(FC_DIST, 2)) / 3.5
    assert loss(PAIR, taught=True, **changes) == pytest.approx(expected, rel=1e-6)


def test_one_head_and_a_teacher_is_distillation_only() -> None:
    assert loss(PAIR[0], taught=True) == pytest.approx(teacher_term(FC, 1), rel=1e-6)
    expected = (label_term(FC, 0.1) + teacher_term(FC, 1)) / 2
    assert loss(PAIR[0], taught=True, label_weight=1.0) == pytest.approx(expected, rel=1e-6)


def test_without_a_teacher_labels_teach_what_predicts() -> None:
    assert loss(PAIR[0], taught=False) == pytest.approx(label_term(FC, 0.1), rel=1e-6)
    assert loss(PAIR, taught=False) == pytest.approx(label_term((FC + FC_DIST) / 2, 0.1), rel=1e-6)


def test_soft_targets() -> None:
    step = StepConfig("s", 1.0, epochs=1, label_smoothing=0.0)
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]], dtype=torch.float64)
    expected = -(targets.numpy() * log_softmax(FC)).sum(1).mean()
    assert float(TrainingLoss(step)(torch.tensor(FC), targets.float())) == pytest.approx(expected, rel=1e-6)
