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
    All of that scales together, and the running statistics with it; what is left to see is batch norm's epsilon. Raises
    ValueError, and changes nothing, for a binary layer in no such block. A block of zeros stays.
    """
    found = [(block, _layers(block)) for block in model.modules()]
    blocks = [(block, layers) for block, layers in found if isinstance(getattr(block, "bn", None), nn.BatchNorm2d)]
    inside = {id(layer) for _, layers in blocks for layer in layers}
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer) and id(module) not in inside:
            raise ValueError(f"{name} has no batch norm behind it that would take up another scale (`bn` of its block)")
    for block, layers in blocks:
        if layers and (size := torch.cat([layer.latent_weight.flatten() for layer in layers]).square().mean().sqrt()):
            _rescale(block, layers, rms / size.item())


def _layers(block: nn.Module) -> list[BinaryLayer]:
    return [child for child in block.modules() if isinstance(child, BinaryLayer)]


def _rescale(block: nn.Module, layers: list[BinaryLayer], factor: float) -> None:
    for layer in layers:
        layer.latent_weight.mul_(factor)
    for child in block.children():
        if isinstance(child, ContextualEmbedding) and child.to_beta is not None:
            child.to_beta.weight.mul_(factor)
    bn = block.get_submodule("bn")
    assert isinstance(bn, nn.BatchNorm2d) and bn.running_mean is not None and bn.running_var is not None
    bn.running_mean.mul_(factor)
    bn.running_var.mul_(factor**2)
