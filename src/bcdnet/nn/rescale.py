"""The size of latent weights, which a batch-normalised network does not show and its optimiser feels."""

import torch
from torch import nn

from bcdnet.nn.binary import BinaryLayer
from bcdnet.nn.embedding import ContextualEmbedding


@torch.no_grad()
def rescale_latent_weights(model: nn.Module, rms: float) -> None:
    """Scale each block's latent weights to this root mean square, and leave the network's outputs as they are.

    A step of Adam has the size of the learning rate whatever the gradient's, so how soon a sign can change depends on
    how large the weight is. Initial values differ in that from layer to layer: 1 x 1 kernels of 128 channels start
    three times as large as 3 x 3 ones, and learn their signs so much later.

    A block is a module with a batch norm `bn` behind the sum of its binary layers' results (and the embedding's beta).
    All of that scales together, and the running statistics with it; what is left to see is batch norm's epsilon.
    """
    for block in model.modules():
        layers = [child for child in block.modules() if isinstance(child, BinaryLayer)]
        bn = getattr(block, "bn", None)
        if not layers or not isinstance(bn, nn.BatchNorm2d):
            continue
        size = torch.cat([layer.latent_weight.flatten() for layer in layers]).square().mean().sqrt().item()
        if size == 0:
            continue
        factor = rms / size
        for layer in layers:
            layer.latent_weight.mul_(factor)
        for child in block.children():
            if isinstance(child, ContextualEmbedding) and child.to_beta is not None:
                child.to_beta.weight.mul_(factor)
        assert bn.running_mean is not None and bn.running_var is not None
        bn.running_mean.mul_(factor)
        bn.running_var.mul_(factor**2)
