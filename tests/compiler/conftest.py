"""Networks with random statistics, so that no threshold, scale or slope is at its neutral initial value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bcdnet.nn import RPReLU, RSign


def prepare(module: nn.Module, *size: int, seed: int = 0) -> nn.Module:
    """Random parameters, batch statistics from two batches; in eval mode."""
    torch.manual_seed(seed)
    module.train()
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.momentum = None
            nn.init.uniform_(child.weight, -1.5, 1.5)
            nn.init.normal_(child.bias, std=0.3)
        elif isinstance(child, nn.Linear):
            nn.init.normal_(child.weight, std=child.in_features**-0.5)
        elif isinstance(child, RSign):
            nn.init.normal_(child.bias, std=0.2)
        elif isinstance(child, RPReLU):
            for parameter in child.parameters():
                nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        for _ in range(2):
            module(torch.randn(4, *size))
    return module.eval()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights too are the same in every run: they are drawn when the network is made, before `prepare`."""
    torch.manual_seed(0)


@pytest.fixture
def prepared() -> Callable[..., nn.Module]:
    """The function that prepares a network for images of a size (C, H, W)."""
    return prepare
