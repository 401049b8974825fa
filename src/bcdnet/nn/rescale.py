"""The size of latent weights, which a batch-normalised network does not show and its optimiser feels."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bcdnet.nn.binary import BinaryLayer
from bcdnet.nn.embedding import ContextualEmbedding


@torch.no_grad()
def rescale_latent_weights(model: nn.Module, rms: float) -> None:
    """Scale each block's latent weights to this root mean square, and leave the network's outputs as they are.

    A step of Adam has the size of the learning rate whatever the gradient's, so how soon a sign can change depends on
    how large the weight is. Initial values differ in that from layer to layer: 1 x 1 kernels of 128 channels start
    three times as large as 3 x 3 ones, and learn their signs so much later.

    A block is a module with a batch norm `bn` behind the sum of its binary layers' results (and the embedding's beta),
    and no other batch norm but in its `shortcut`. All of that scales together, and the running statistics with it; the
    factor of `bn` takes up what its epsilon would change, but no more than a half or double: a channel that hardly
    varied would come back from that many times too large. Raises ValueError, and changes nothing, for an rms that is
    not positive and for a binary layer in no such block or in more than one. A block of zeros stays.
    """
    if not 0 < rms < math.inf:
        raise ValueError(f"rms is a positive number, not {rms}")
    blocks = [(block, layers) for block in model.modules() if _has_bn(block) and (layers := _layers(block))]
    norms: dict[int, int] = {}  # for each binary layer: how many batch norms could be the one behind it
    for block, layers in blocks:
        count = sum(isinstance(child, _BatchNorm) for child in _main_path(block))
        norms |= {id(layer): max(count, norms.get(id(layer), 0)) for layer in layers}
    for name, module in model.named_modules():
        if isinstance(module, BinaryLayer) and (count := norms.get(id(module), 0)) != 1:
            raise ValueError(
                f"{name} has {count or 'no'} batch norm{'s' if count else ''} behind it to take up another scale; "
                "it wants one, `bn` of its block"
            )
    for block, layers in blocks:
        if size := torch.cat([layer.latent_weight.flatten() for layer in layers]).square().mean().sqrt():
            _rescale(block, layers, rms / size.item())


def _has_bn(block: nn.Module) -> bool:
    return isinstance(getattr(block, "bn", None), _BatchNorm)


def _main_path(block: nn.Module) -> Iterator[nn.Module]:
    for name, child in block.named_modules():
        if name.partition(".")[0] != "shortcut":
            yield child


def _layers(block: nn.Module) -> list[BinaryLayer]:
    return [child for child in block.modules() if isinstance(child, BinaryLayer)]


def _rescale(block: nn.Module, layers: list[BinaryLayer], factor: float) -> None:
    for layer in layers:
        layer.latent_weight.mul_(factor)
    for child in block.children():
        if isinstance(child, ContextualEmbedding) and child.to_beta is not None:
            for parameter in child.to_beta.parameters():
                parameter.mul_(factor)
    bn = block.get_submodule("bn")
    assert isinstance(bn, _BatchNorm)
    if bn.running_mean is None or bn.running_var is None:
        return
    before = bn.running_var + bn.eps
    bn.running_mean.mul_(factor)
    bn.running_var.mul_(factor**2)
    if bn.weight is not None:
        bn.weight.mul_((((bn.running_var + bn.eps) / before).sqrt() / factor).clamp(0.5, 2))
