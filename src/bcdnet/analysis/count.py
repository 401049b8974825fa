"""Operation count of a network: binary and real-valued multiply-accumulates, elementwise work, size once packed.

Every quantity is defined in docs/counting.md; what each layer costs stands in `bcdnet.analysis.costs`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from bcdnet.analysis.costs import Cost, float_bytes, is_layer
from bcdnet.analysis.trace import Call, trace
from bcdnet.errors import BcdnetError
from bcdnet.models.wrappers import unwrapped

BOPS_PER_OP = 64  # one 64-bit word holds the operands of 64 binary multiply-accumulates


@dataclass(frozen=True)
class Layer:
    """One row: a layer, or the arithmetic between the layers of one block, summed over its calls."""

    name: str
    stage: str
    kind: str
    output: tuple[int, ...]
    params: int
    binary_params: int
    packed_bytes: int
    macs: int
    weight_bits: int
    activation_bits: int
    elementwise: Mapping[str, int]


@dataclass(frozen=True)
class Counts:
    """What a deployed network costs on one image of `input_size` (C, H, W), row by row and in total.

    Deployed: two heads averaged into one, BatchNorm folded to a factor and an offset, binary weights at one bit.
    """

    input_size: tuple[int, int, int]
    layers: tuple[Layer, ...]

    @property
    def params(self) -> int:
        """Learnable parameters."""
        return sum(layer.params for layer in self.layers)

    @property
    def binary_params(self) -> int:
        """Those of `params` that are stored in one bit."""
        return sum(layer.binary_params for layer in self.layers)

    @property
    def macs_by_precision(self) -> dict[str, int]:
        """Multiply-accumulates by "weight bits x activation bits": "1x1", "1x32", "32x1", "32x32"."""
        macs: Counter[str] = Counter({"1x1": 0, "1x32": 0, "32x1": 0, "32x32": 0})
        for layer in self.layers:
            macs[f"{layer.weight_bits}x{layer.activation_bits}"] += layer.macs
        return dict(macs)

    @property
    def bops(self) -> int:
        """Multiply-accumulates of one-bit weights with one-bit activations."""
        return self.macs_by_precision["1x1"]

    @property
    def flops(self) -> int:
        """All other multiply-accumulates of convolutions and linear layers, each counted once."""
        return sum(layer.macs for layer in self.layers) - self.bops

    @property
    def elementwise(self) -> dict[str, int]:
        """Elementwise operations by kind, largest first."""
        kinds: Counter[str] = Counter()
        for layer in self.layers:
            kinds.update(layer.elementwise)
        return dict(kinds.most_common())

    @property
    def flops_elementwise(self) -> int:
        """Elementwise operations of every kind."""
        return sum(self.elementwise.values())

    @property
    def ops(self) -> float:
        """The sum flops + bops / 64."""
        return self.flops + self.bops / BOPS_PER_OP

    @property
    def ops_with_elementwise(self) -> float:
        """The sum flops + flops_elementwise + bops / 64."""
        return self.ops + self.flops_elementwise

    @property
    def packed_bytes(self) -> int:
        """Size of the packed weights: one bit for each binary weight, float32 for the rest, no padding, no metadata."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def ace(self) -> int:
        """Arithmetic computation effort: multiply-accumulates x weight bits x activation bits (PokeBNN, CVPR 2022)."""
        return sum(layer.macs * layer.weight_bits * layer.activation_bits for layer in self.layers)

    def by_stage(self) -> dict[str, "Counts"]:
        """The same counts for each stage, in the order in which the stages run; they add up to the whole."""
        stages: defaultdict[str, list[Layer]] = defaultdict(list)
        for layer in self.layers:
            stages[layer.stage].append(layer)
        return {stage: Counts(self.input_size, tuple(layers)) for stage, layers in stages.items()}

    def totals(self) -> dict[str, Any]:
        """Every total under its name, ready for JSON."""
        names = (
            "params binary_params bops flops flops_elementwise ops ops_with_elementwise packed_bytes ace "
            "macs_by_precision elementwise"
        )
        return {name: getattr(self, name) for name in names.split()}


def count(model: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> Counts:
    """Count one forward pass of `model` in eval mode on one image of `input_size` (C, H, W).

    Takes any module made of `bcdnet.nn` and ordinary torch layers, on any device; it is not changed and nothing is
    computed. Counts what the binary layers' `weight_bits` say. Raises BcdnetError, naming the module, for
    multiply-accumulates in a layer of unknown type, and for an input size that is not three positive numbers.
    """
    if len(input_size) != 3 or min(input_size) < 1:
        raise BcdnetError(f"input_size is channels, height and width, all positive, not {tuple(input_size)}")
    traced = trace(unwrapped(model), (input_size[0], input_size[1], input_size[2]))
    groups: defaultdict[tuple[str, int, int], list[Call]] = defaultdict(list)
    for call in traced.calls:
        groups[call.path, call.cost.weight_bits, call.activation_bits].append(call)
    store = _Store()
    layers = [_layer(traced.model, calls, store) for calls in groups.values()]
    layers += _unused(traced.model, {call.path for call in traced.calls}, store)
    return Counts((input_size[0], input_size[1], input_size[2]), tuple(layers))


class _Store:
    """Which parameters are already accounted for: those that layers share, or that a layer uses twice, count once."""

    def __init__(self) -> None:
        self._seen: set[nn.Module | nn.Parameter] = set()

    def shared(self, module: nn.Module, params: Iterable[nn.Parameter]) -> set[nn.Parameter] | None:
        """Those of `params` that a module before held; None for a module that is not new, or holds nothing new."""
        params = set(params)
        before = params & self._seen
        fresh = module not in self._seen and (not params or before != params)
        self._seen |= {module, *params}
        return before if fresh else None


def _layer(model: nn.Module, calls: list[Call], store: _Store) -> Layer:
    first = calls[0]
    cost = first.cost
    shared = store.shared(model.get_submodule(first.path), cost.params) if cost.packed_bytes else None
    elementwise: Counter[str] = Counter()
    for call in calls:
        elementwise.update(call.cost.elementwise)
    return Layer(
        name=first.path,
        stage=_stage(model, first.path),
        kind=first.kind,
        output=first.output,
        params=0 if shared is None else sum(p.numel() for p in set(cost.params) - shared),
        binary_params=0 if shared is None else cost.binary_params,
        packed_bytes=0 if shared is None else cost.packed_bytes - float_bytes(shared),
        macs=sum(call.cost.macs for call in calls),
        weight_bits=cost.weight_bits,
        activation_bits=first.activation_bits,
        elementwise=dict(elementwise),
    )


def _unused(model: nn.Module, called: set[str], store: _Store) -> Iterator[Layer]:
    """Rows for parameters that belong to no layer of a known type, or to one that did not run."""
    covered: list[str] = []
    for path, module in model.named_modules():
        if is_layer(module) and path in called:
            covered.append(f"{path}." if path else "")
        elif not any(path.startswith(prefix) for prefix in covered):
            params = tuple(module.parameters(recurse=False))
            cost = Cost(params=params, packed_bytes=float_bytes(params))
            row = _layer(model, [Call(path, type(module).__name__, cost, (), activation_bits=32)], store)
            if row.params:
                yield row


def _stage(model: nn.Module, path: str) -> str:
    """The part of the network that `path` is in: a child of the model, or of a list of lists that is one."""
    if not path:
        return "(top)"
    names = path.split(".")
    lists = (nn.Sequential, nn.ModuleList)
    child = model.get_submodule(names[0])
    nested = isinstance(child, lists) and len(names) > 1 and isinstance(child.get_submodule(names[1]), lists)
    return ".".join(names[: 2 if nested else 1])
