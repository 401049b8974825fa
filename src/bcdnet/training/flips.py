"""How many binary weights change their sign from one epoch to the next."""

import torch
from torch import Tensor, nn

from bcdnet.nn import BinaryLayer, sign


class SignHistory:
    """Remembers the signs of a model's latent weights, as one bool per weight on the model's device."""

    def __init__(self, model: nn.Module, signs: list[Tensor] | None = None) -> None:
        """`signs`: those of a checkpoint; the model's present ones where left out."""
        self.layers = [module for module in model.modules() if isinstance(module, BinaryLayer)]
        self.signs = self._present() if signs is None else signs

    @torch.no_grad()
    def _present(self) -> list[Tensor]:
        return [sign(layer.latent_weight) > 0 for layer in self.layers]

    def rate(self) -> float | None:
        """Share of all binary weights whose sign differs from the remembered one; remembers the present ones.

        None for a network without binary layers.
        """
        if not self.layers:
            return None
        present = self._present()
        pairs = zip(present, self.signs, strict=True)
        flipped = torch.stack([(now != before.to(now.device)).sum() for now, before in pairs]).sum()
        self.signs = present
        return int(flipped) / sum(now.numel() for now in present)
