"""An exponential moving average of a model's parameters and buffers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """average = d * average + (1 - d) * weights after every optimiser step; integers (batch counts) are copied.

    The first steps use a smaller d = min(decay, (1 + n) / (10 + n)), so that the average forgets the initial weights.
    Batch norm's running statistics are averaged too: they belong to the averaged weights, not to the last ones.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def to(self, device: torch.device) -> None:
        """Move the average to the model's device."""
        self.average = {name: value.to(device) for name, value in self.average.items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the model's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        new = model.state_dict()
        floats = [name for name, value in new.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in floats], [new[name] for name in floats], 1 - decay)
        for name in new.keys() - floats:
            self.average[name].copy_(new[name])

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model has the averaged weights; afterwards its own again, bit for bit."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        copy_into(model, self.average)
        try:
            yield
        finally:
            copy_into(model, own)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on exactly; tensors are not copied."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`'s result; tensors move to the device of the present average."""
        self.updates = state["updates"]
        for name, value in state["average"].items():
            self.average[name].copy_(value)


@torch.no_grad()
def copy_into(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Overwrite the model's parameters and buffers by name, in place."""
    for name, value in model.state_dict().items():
        value.copy_(values[name])
