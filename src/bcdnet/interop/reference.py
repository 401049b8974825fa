"""Checkpoints of the published BCDNet and ReActNet code, as networks of ours."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from bcdnet.errors import InteropError
from bcdnet.interop import mobilenet, resnet
from bcdnet.interop.renaming import listed, rename
from bcdnet.models import Network, build
from bcdnet.nn import set_weight_bits

FAMILIES = (mobilenet, resnet)
# Where training scripts put the model's tensors, and what wrappers put before their names.
NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def from_reference(state_dict: Mapping[str, Any], *, weight_bits: int | None = None) -> Network:
    """A network in eval mode with the weights of a published BCDNet-A (`a_3`), ReActNet-A or ReActNet-R18.

    `state_dict`: names to tensors, possibly inside a training checkpoint (`{"state_dict": ...}`, `{"model": ...}`) and
    behind prefixes such as `module.`. Widths, depth, classes and input channels are read off the tensors' shapes.
    Binary weights may be [O, I, k, k] or flat [O*I*k*k, 1]. Every tensor is loaded.

    `weight_bits`: 1 (the default) for a checkpoint of the second training step, 32 for one of the first, whose weights
    were not binary. The file does not tell: the first step has the same names and shapes as the second of the newer
    reference code. Flat weights do tell, the second step alone stores them.

    Raises InteropError: not a network of these families; tensors missing, extra, of the wrong shape or type or not
    finite; 32 bits for flat weights.
    """
    if weight_bits not in (None, 1, 32):
        raise InteropError(f"weight_bits is 1 or 32, not {weight_bits}")
    tensors = unwrap(state_dict)
    flat = [name for name in tensors if name.endswith(".weights")]
    if flat and weight_bits == 32:
        raise InteropError(f"{flat[0]} is flat, as only binary weights are: weight_bits is 1")
    family = max(FAMILIES, key=lambda family: int(family.matches(tensors)))
    if not family.matches(tensors):
        raise InteropError(
            "not a state dict of BCDNet-A, ReActNet-A or ReActNet-R18: no feature.<i>... or layer<i>.<j>.binary_conv "
            f"among {listed(sorted(tensors))}"
        )
    try:
        model = build(family.configuration(tensors))
    except InteropError:
        raise
    except ValueError as error:
        raise InteropError(f"the state dict describes no network: {error}") from error
    model.load_state_dict(rename(family.rules(model), tensors, model.state_dict()))
    set_weight_bits(model, weight_bits or 1)
    return model.eval()


def unwrap(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The names and tensors inside a checkpoint, without nesting and without wrappers' prefixes.

    Raises InteropError where an entry is not a tensor, or stands there twice: with a wrapper's prefix and without.
    """
    inner = checkpoint
    for _ in NESTS:  # one within another at most; a mapping can hold itself
        nest = next((name for name in NESTS if isinstance(inner.get(name), Mapping)), None)
        inner = inner if nest is None else inner[nest]
    other = [f"{name} is {type(value).__name__}" for name, value in inner.items() if not isinstance(value, Tensor)]
    if other or not inner:
        raise InteropError(f"not a state dict: {listed(other) or 'it is empty'}, expected names and tensors")
    tensors = {str(name): value for name, value in inner.items()}
    while prefix := next((prefix for prefix in PREFIXES if _most_have(tensors, prefix)), None):
        bare = {name.removeprefix(prefix): value for name, value in tensors.items()}
        if len(bare) < len(tensors):
            twice = sorted(name for name in tensors if f"{prefix}{name}" in tensors)
            raise InteropError(f"not one state dict: with and without {prefix!r} there are {listed(twice)}")
        tensors = bare
    return tensors


def _most_have(names: Collection[str], prefix: str) -> bool:
    return 2 * sum(name.startswith(prefix) for name in names) > len(names)
