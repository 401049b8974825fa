"""Which parameters decay, and the optimisers of the recipes."""

from typing import Any

import torch
from torch import nn

from bcdnet.nn import BinaryLayer
from bcdnet.training.recipe import StepConfig

DECAYING = (nn.Conv2d, nn.Linear)


def parameter_groups(model: nn.Module, weight_decay: float, weight_bits: int) -> list[dict[str, Any]]:
    """Two groups for a torch optimiser, those that decay first; each parameter once, in the model's order.

    Only the weights of convolutions and linear layers decay. A binary layer's latent weight does while it is used as a
    real number (`weight_bits` 32) and never once its sign is (1): decay would only pull it to where its sign flips.
    Batch norm, biases, thresholds and the parameters of RPReLU never decay.
    """
    decaying: set[int] = set()
    for module in model.modules():
        if isinstance(module, DECAYING):
            decaying.add(id(module.weight))
        elif isinstance(module, BinaryLayer) and weight_bits == 32:
            decaying.add(id(module.latent_weight))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, step: StepConfig) -> torch.optim.Optimizer:
    """The step's optimiser over `parameter_groups`; the learning rate is set before every step by the schedule.

    `adam` with a weight decay adds it to the gradient (ReActNet's way), `adamw` decouples it (the paper's).
    """
    groups = parameter_groups(model, step.weight_decay, step.weight_bits)
    if step.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=step.lr, momentum=step.momentum, nesterov=step.momentum > 0)
    kind = torch.optim.AdamW if step.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=step.lr)
