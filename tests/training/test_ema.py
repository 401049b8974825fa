"""The average of the weights against its formula."""

import pytest
import torch
from torch import nn

from bcdnet.training.ema import WeightAverage


def small_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_average_of_parameters_and_running_statistics() -> None:
    model = small_model()
    average = WeightAverage(model, decay=0.9)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12]):  # (1 + n) / (10 + n) is below 0.9
        with torch.no_grad():
            model[0].weight.add_(step + 1.0)
        model(torch.randn(4, 1, 3, 3))
        average.update(model)
        for name, value in model.state_dict().items():
            expected[name] = (
                decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value.clone()
            )
    for name, value in average.average.items():
        torch.testing.assert_close(value, expected[name])
    assert int(average.average["1.num_batches_tracked"]) == 3


def test_late_updates_use_the_decay_itself() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.5)
    average.updates = 100
    before = float(average.average["weight"])
    nn.init.constant_(model.weight, 3.0)
    average.update(model)
    assert float(average.average["weight"]) == pytest.approx(0.5 * before + 1.5)


def test_applied_only_within_the_block_and_restored_bit_for_bit() -> None:
    model = small_model()
    average = WeightAverage(model, decay=0.9)
    with torch.no_grad():
        model[0].weight.mul_(1.7)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with average.applied_to(model):
        assert torch.equal(model[0].weight, average.average["0.weight"])
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_state_goes_through_a_file_form() -> None:
    model = small_model()
    average = WeightAverage(model, decay=0.9)
    nn.init.ones_(model[0].weight)
    average.update(model)
    other = WeightAverage(small_model(), decay=0.9)
    other.load_state_dict(average.state_dict())
    assert other.updates == 1
    assert all(torch.equal(value, average.average[name]) for name, value in other.average.items())
