"""Which parameters decay, and the optimisers of the recipes."""

from typing import Any

import torch
from torch import nn

from bcdnet.nn import undecayed
from bcdnet.training.recipe import StepConfig


def parameter_groups(model: nn.Module, weight_decay: float, channel_lr: float = 1.0) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, first what decays (see `undecayed`); each parameter once, in the model's order.

    What is learned per channel is the last group, whose `lr_factor` is `channel_lr`, where that is not 1.
    """
    kept = undecayed(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    still = [parameter for name, parameter in trained if name in kept]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in trained if name not in kept], "weight_decay": weight_decay},
        {"params": still, "weight_decay": 0.0},
    ]
    if channel_lr != 1:
        groups[1]["params"] = [p for p in still if p.dim() > 1]
        groups.append({"params": [p for p in still if p.dim() <= 1], "weight_decay": 0.0, "lr_factor": channel_lr})
    return groups


def build_optimizer(model: nn.Module, step: StepConfig) -> torch.optim.Optimizer:
    """The step's optimiser over `parameter_groups`; the learning rate is set before every step by the schedule, times
    the group's `lr_factor`.

    `adam` with a weight decay adds it to the gradient (ReActNet's way), `adamw` decouples it (the paper's). All are
    torch's fused ones: one pass over a parameter and its state.
    """
    groups = parameter_groups(model, step.weight_decay, step.channel_lr)
    if step.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=step.lr, momentum=step.momentum, nesterov=step.momentum > 0, fused=True)
    kind = torch.optim.AdamW if step.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=step.lr, fused=True)


def restore_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load `state` into a fresh optimiser, laid out in memory as the parameters are now.

    torch's fused optimisers walk through memory: a checkpoint from before `channels_last` changed would give each
    weight another one's moments.
    """
    optimizer.load_state_dict(state)
    for parameter, own in optimizer.state.items():
        for key, value in own.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                own[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
