"""What torch puts around a network without changing what it computes."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module within torch.compile's, DataParallel's, DistributedDataParallel's and AveragedModel's; else itself."""
    while isinstance(module, _WRAPPERS) or "_orig_mod" in module._modules:  # the latter is torch.compile's
        module = module.get_submodule("module" if isinstance(module, _WRAPPERS) else "_orig_mod")
    return module
