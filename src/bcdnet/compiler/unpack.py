"""From a packed program back to the network that it was made of, to train it further or to look into it.

Packing copies, joins, transposes and folds parameters, so that each number of a program is some parameter's. Which one
is found by packing a network of the same shape in which every number is its own address; thus there is no inverse of
each lowering to keep in step with it. What packing drops comes back as the simplest thing that computes the same:
latent weights as bits times their scale, batch norm with the mean 0 and the variance 1, two heads as twice their mean.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bcdnet.compiler.export import NETWORK
from bcdnet.compiler.fuse import merge_twins
from bcdnet.compiler.lower import lower
from bcdnet.compiler.plan import plan
from bcdnet.compiler.trace import trace
from bcdnet.errors import CheckpointError, CompileError, RecipeError
from bcdnet.hub import MODEL_FILE, PACKED_FILE, download, is_hub_name
from bcdnet.models import DualHead, Loaded, Network, from_description, load_model
from bcdnet.nn import BinaryLayer, drop_statistics
from bcdnet.pretrained import is_packed, list_pretrained, locate
from bcdnet.program.file import read_program
from bcdnet.program.reference import unpack_bits
from bcdnet.program.schema import BinaryConv2d, Program

FIRST = 2**10  # addresses lie above the constants that lowering brings in, such as a ReLU's slope
LAST = 2**24  # beyond, float32 lacks integers

Array = npt.NDArray[Any]


def load_trained(name: str | os.PathLike[str]) -> Loaded:
    """The model of a file (packed or not), a run folder, a shipped model's name, or `hf-hub:ORG/REPO`.

    Raises ProgramError or CheckpointError, which name the file: not readable, or see `unpack`; BcdnetError for what the
    hub does not give.
    """
    name = os.fspath(name)
    if not name:  # a variable of a shell's that is not set; as a path it would be this folder
        raise CheckpointError("an empty name means no model")
    # As text: a Path of "./NAME" is one of "NAME", which may be a shipped model's.
    path = str(download(name, [MODEL_FILE, PACKED_FILE])) if is_hub_name(name) else os.path.expanduser(name)
    if not is_packed(path):
        if not os.path.exists(path) and (near := difflib.get_close_matches(name, list_pretrained(), n=1)):
            raise CheckpointError(f"{name}: no such model file; did you mean {near[0]}?")
        return load_model(path)
    program = read_program(locate(path))
    try:
        return unpack(program)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None


def unpack(program: Program) -> Loaded:
    """A network in eval mode that packs to this program again, number for number if that was float32 on a CPU.

    Its batch norms lack their statistics, see `restore_statistics`. Raises CheckpointError for a program that does not
    say which network it was made of, was made of another one, or by a version that packed it otherwise.
    """
    network = _network(program)
    addresses = _write_addresses(network)
    assert program.preprocess is not None
    try:
        graph = lower(trace(network), program.preprocess.input_size)
        merge_twins(graph)
        addressed = plan(graph)
    except CompileError as error:
        raise CheckpointError(f"the network that it says it was made of does not pack: {error}") from error
    _check_alike(addressed, program)
    state = _numbers(addressed, program, addresses)
    for name, weight, scale in _binary_weights(addressed, program, addresses):
        state[name] = latent_weight(weight, scale).reshape(network.get_parameter(name).shape)
    if isinstance(network.head, DualHead):
        state |= {name.replace("head.fc.", "head.fc_dist."): state[name] for name in state if name.startswith("head.")}
    network.float().load_state_dict({name: torch.from_numpy(values) for name, values in state.items()}, strict=False)
    preprocess = {
        key: list(value) if isinstance(value, tuple) else value for key, value in vars(program.preprocess).items()
    }
    provenance = {key: value for key, value in program.provenance.items() if key != NETWORK}
    return Loaded(network, list(program.labels), preprocess, provenance)


def latent_weight(weight: Array, scale: Array) -> Array:
    """A float32 latent weight [O, ...] with the signs of `weight` [O, ...] and the mean magnitudes `scale` [O].

    The magnitudes differ by a few units in their last place: each is a multiple of their sum's, so that the sum is
    exact in whatever order it is taken, and the mean, to the last bit, a scale that was one. Raises CheckpointError for
    a scale that is negative, or too large to sum.
    """
    size = weight[0].size
    if not ((scale >= 0) & (scale < np.finfo(np.float32).max / size)).all():
        raise CheckpointError("a binary layer has a scale that is negative, or beyond float32 times its weights")
    total = np.float32(size) * scale
    # The scale was such a quotient once; where the product was rounded away from it, the sum is next to it.
    for other in (np.nextafter(total, np.float32(0)), np.nextafter(total, np.float32(np.inf))):
        total = np.where((total / np.float32(size) != scale) & (other / np.float32(size) == scale), other, total)
    unit = np.spacing(total)
    share, rest = np.divmod((total / unit).astype(np.int64), size)
    counts = share[:, None] + (np.arange(size) < rest[:, None])
    magnitudes = (counts * unit[:, None]).astype(np.float32).reshape(weight.shape)
    return np.copysign(magnitudes, weight)


def _network(program: Program) -> Network:
    """The network that the program names, with fresh weights, batch norms folded."""
    if NETWORK not in program.provenance or program.preprocess is None:
        missing = "its preprocessing" if NETWORK in program.provenance else "which network it was made of"
        raise CheckpointError(f"does not say {missing}, so that it can only be run: pack it anew from its run or file")
    try:
        # Of a binary layer each bit is a number; of two heads one is packed.
        numbers = 2 * sum(8 * tensor.nbytes for tensor in program.tensors.values())
        network = from_description(program.provenance[NETWORK], numbers).eval()
    except (KeyError, TypeError, ValueError, RecipeError) as error:
        raise CheckpointError(f"its provenance does not describe a network of ours: {error}") from error
    drop_statistics(network)
    return network


def _write_addresses(network: Network) -> dict[str, Array]:
    """Fill every parameter with its addresses, and return them: one for each number, or output of a binary layer."""
    addresses: dict[str, Array] = {}
    end = FIRST
    for path, layer in network.named_modules():
        binary = isinstance(layer, BinaryLayer)
        for name, parameter in layer.named_parameters(path, recurse=False):
            if name.startswith("head.fc_dist."):
                continue  # of two heads the mean is packed
            shape = parameter.shape[:1] if binary else parameter.shape
            places = torch.arange(end, end + shape.numel()).view(*shape, *[1] * (parameter.dim() - len(shape)))
            end += shape.numel()
            addresses[name] = places.view(shape).numpy()
            # In float64 the mean of equal numbers, a binary layer's scale, is that number.
            parameter.data = places.double().expand(parameter.shape).clone() if binary else places.float()
    if isinstance(network.head, DualHead):
        network.head.fc_dist.load_state_dict(network.head.fc.state_dict())
    if end > LAST:
        raise CheckpointError(f"has {end - FIRST:,} real-valued numbers; {LAST - FIRST:,} can be told apart")
    return addresses


def _check_alike(addressed: Program, program: Program) -> None:
    """Raise CheckpointError unless the two differ in their numbers alone."""
    pairs = zip(addressed.ops, program.ops, strict=False)
    where = next((f"from {theirs.name} on" for ours, theirs in pairs if ours != theirs), "in its sizes")
    shapes = [{name: tensor.shape for name, tensor in both.tensors.items()} for both in (addressed, program)]
    parts = ("buffers", "ops", "inputs", "outputs")
    if shapes[0] != shapes[1] or any(getattr(addressed, part) != getattr(program, part) for part in parts):
        raise CheckpointError(f"is {where} not the network that it says it was made of, as this version packs it")


def _numbers(addressed: Program, program: Program, addresses: dict[str, Array]) -> dict[str, Array]:
    """The parameters by name, from where their addresses stand; of binary layers, the scales."""
    numbers = np.full(sum(places.size for places in addresses.values()), np.nan, np.float32)
    for name, places in addressed.tensors.items():
        if places.dtype == np.float32:
            real = places >= FIRST
            if (places[~real] != program.tensors[name][~real]).any():
                raise CheckpointError(f"its tensor {name} has other constants than the network's")
            numbers[places[real].astype(np.int64) - FIRST] = program.tensors[name][real]
    state = {name: numbers[places - FIRST] for name, places in addresses.items()}
    if lost := next((name for name, values in state.items() if np.isnan(values).any()), None):
        raise CheckpointError(f"it does not hold all of {lost}")
    return state


def _binary_weights(
    addressed: Program, program: Program, addresses: dict[str, Array]
) -> Iterator[tuple[str, Array, Array]]:
    """Name, ±1 weight [O, I, ...] and scale [O] of every binary layer, some of which share a branch of an op."""
    owners = {int(places[0]): name for name, places in addresses.items() if name.endswith(".latent_weight")}
    for op in (op for op in program.ops if isinstance(op, BinaryConv2d)):
        channels = program.buffers[op.input].shape[-1]
        for branch in op.branches:
            places = addressed.tensors[branch.scale].astype(np.int64)
            weight = unpack_bits(program.tensors[branch.weight], channels).transpose(0, 3, 1, 2)
            for start in np.flatnonzero(np.isin(places, list(owners))):
                name = owners[int(places[start])]
                rows = slice(start, start + len(addresses[name]))
                yield name, weight[rows], program.tensors[branch.scale][rows]
