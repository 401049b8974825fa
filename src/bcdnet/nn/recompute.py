"""Blocks whose inner maps are not kept for the backward pass, which computes them again."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), for whose gradients x alone is kept (Chen et al., "Training Deep Nets with Sublinear Memory Cost").

    Results and gradients are those of `block(x)`, bit for bit; so are the buffers, such as batch norm's running
    statistics, which plain `torch.utils.checkpoint` moves twice per batch.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _CopiedBuffers(block)

    out: Tensor
    if torch.compiler.is_compiling():  # the second pass is made of the first one's graph, whose updates run once
        out = checkpoint(block, x, use_reentrant=False)
    else:
        out = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return out


class _CopiedBuffers(ExitStack):
    """What happens to the block's buffers happens to copies of them. Entered once for each backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def __enter__(self) -> Self:
        for module in self.block.modules():
            for name, value in list(module.named_buffers(recurse=False)):
                self.callback(setattr, module, name, value)
                setattr(module, name, value.clone())
        return self
