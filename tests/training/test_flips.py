"""The share of binary weights that have changed their sign."""

import torch
from torch import nn

from bcdnet.nn import BinaryConv2d
from bcdnet.training.flips import SignHistory


def test_flips_are_counted_since_the_last_count() -> None:
    layers = nn.Sequential(BinaryConv2d(2, 2, 1), nn.Conv2d(2, 2, 1), BinaryConv2d(2, 3, 1))
    for parameter in layers.parameters():
        nn.init.ones_(parameter)
    history = SignHistory(layers)
    with torch.no_grad():
        layers[0].latent_weight[0, 0] = -1
        layers[1].weight.neg_()
        layers[2].latent_weight[1] = -0.5
    remembered = SignHistory(layers, [signs.clone() for signs in history.signs])  # as a checkpoint has them
    for counting in (history, remembered):
        assert [counting.rate(), counting.rate()] == [0.3, 0.0]
    nn.init.ones_(layers[0].latent_weight)
    assert history.rate() == 0.1


def test_a_network_without_binary_weights_has_none_to_count() -> None:
    assert SignHistory(nn.Conv2d(1, 1, 1)).rate() is None
