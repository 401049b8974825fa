"""Blocks whose inner maps are not kept for the backward pass, which computes them again."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), for whose gradients x alone is kept (Chen et al., "Training Deep Nets with Sublinear Memory Cost").

    Results and gradients are those of `block(x)`, bit for bit; so are the buffers, such as batch norm's running
    statistics, which plain `torch.utils.checkpoint` moves twice per batch.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _copied_buffers(block)

    # Compiled, the second pass is made of the first one's graph, whose updates run once, and may have no contexts.
    context_fn = noop_context_fn if torch.compiler.is_compiling() else contexts
    out: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=context_fn)
    return out


@contextmanager
def _copied_buffers(block: nn.Module) -> Iterator[None]:
    """What happens to the block's buffers happens to copies of them."""
    buffers = [
        (module, name, value) for module in block.modules() for name, value in module.named_buffers(recurse=False)
    ]
    for module, name, value in buffers:
        setattr(module, name, value.clone())
    try:
        yield
    finally:
        for module, name, value in buffers:
            setattr(module, name, value)
