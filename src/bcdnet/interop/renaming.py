"""Renaming of a foreign state dict into one of ours, where nothing may be lost, missing or of another shape.

C channels, O/I output/input channels, k taps a side.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bcdnet.errors import InteropError

SHOWN = 5  # names an error lists of each sort

# How the reference stores a tensor: as we do; a bias per channel as [1, C, 1, 1]; a binary weight as [O, I, k, k] under
# `weight`, or flat as [O*I*k*k, 1] under `weights`.
Form = Literal["same", "bias", "binary"]


@dataclass(frozen=True)
class Rule:
    """`target`, in our state dict, is the concatenation along axis 0 of `sources` in the foreign one."""

    target: str
    sources: tuple[str, ...]
    form: Form = "same"


def rename(rules: Iterable[Rule], tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors, with the shapes of `wanted`, from the foreign `tensors`.

    InteropError names the tensors that are missing, extra, of the wrong shape or type or not finite, all at once.
    """
    parts = [
        _Part(rule, _stored_name(rule, source, tensors), wanted[rule.target])
        for rule in rules
        for source in rule.sources
    ]
    missing = [part.name for part in parts if part.name not in tensors]
    extra = sorted(set(tensors) - {part.name for part in parts})
    unfit = [text for part in parts if part.name in tensors and (text := part.misfit(tensors[part.name]))]
    problems = [
        f"{label}: {listed(names)}"
        for label, names in (("missing", missing), ("extra", extra), ("wrong", unfit))
        if names
    ]
    if problems:
        raise InteropError(f"the state dict does not fit; {'; '.join(problems)}")
    gathered: defaultdict[str, list[_Part]] = defaultdict(list)
    for part in parts:
        gathered[part.rule.target].append(part)
    return {target: _joined(group, tensors) for target, group in gathered.items()}


@dataclass(frozen=True)
class _Part:
    """One foreign tensor, `name`, and the rule by which it becomes all or some rows of our tensor `whole`."""

    rule: Rule
    name: str
    whole: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape as we store it."""
        shape = self.whole.shape
        return (shape[0] // len(self.rule.sources), *shape[1:]) if shape else ()

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Its shape as the reference stores it."""
        if self.rule.form == "bias":
            return (1, *self.shape, 1, 1)
        if self.name not in self.rule.sources:
            return (math.prod(self.shape), 1)
        return self.shape

    def misfit(self, tensor: Tensor) -> str:
        """What is wrong with `tensor`, or nothing."""
        if tuple(tensor.shape) != self.stored_shape:
            return f"{self.name} is {list(tensor.shape)}, not {list(self.stored_shape)}"
        if tensor.is_floating_point() != self.whole.is_floating_point():
            return f"{self.name} is {tensor.dtype}, not {self.whole.dtype}"
        if tensor.layout != torch.strided or tensor.is_meta:
            return f"{self.name} is {'without values' if tensor.is_meta else 'sparse'}"
        if not tensor.float().isfinite().all():  # as what diverged leaves behind
            return f"{self.name} holds a NaN or an infinity"
        return ""


def _stored_name(rule: Rule, source: str, tensors: Mapping[str, Tensor]) -> str:
    flat = f"{source}s"  # `weights`
    return flat if rule.form == "binary" and source not in tensors and flat in tensors else source


def _joined(parts: list[_Part], tensors: Mapping[str, Tensor]) -> Tensor:
    pieces = [tensors[part.name].reshape(part.shape) for part in parts]
    if pieces[0].dim():
        return torch.cat(pieces)
    # Counters of batches, of layers that always ran together.
    if any(not torch.equal(piece, pieces[0]) for piece in pieces):
        raise InteropError(f"the state dict does not fit; {' and '.join(part.name for part in parts)} differ")
    return pieces[0]


def agreed_size(tensors: Mapping[str, Tensor], names: Iterable[str]) -> int:
    """The length of axis 0 that most of the tensors `names` have, so that an odd one out is what gets reported.

    The first where they tie. InteropError where none of them is there.
    """
    names = list(names)
    sizes = [
        tensors[name].shape[0] for name in names if name in tensors and tensors[name].numel() and tensors[name].dim()
    ]
    if not sizes:
        raise InteropError(f"the state dict does not fit; missing: {listed(names)}")
    return max(dict.fromkeys(sizes), key=sizes.count)


def input_channels(tensors: Mapping[str, Tensor], stem: str) -> int:
    """Of the first convolution's weight, `stem`; 3 where it is missing or no kernel, which `rename` then reports."""
    weight = tensors.get(stem)
    return weight.shape[1] if weight is not None and weight.dim() == 4 and weight.numel() else 3


def children(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many modules `<prefix>.0`, `<prefix>.1`, ... there are. InteropError names the first that is left out."""
    found: dict[int, str] = {}
    for key in tensors:
        if match := re.match(rf"{re.escape(prefix)}\.(\d{{1,9}})\.", key):
            found[int(match[1])] = key
    for index in range(len(found)):
        if index not in found:
            raise InteropError(f"the state dict does not fit; no {prefix}.{index}, but {found[max(found)]}")
    return len(found)


def listed(names: Sequence[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
