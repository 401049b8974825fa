"""Joins parallel binary convolutions of the same bits whose results are concatenated into one with all their outputs.

Channel-doubling blocks are often written as two convolutions of one input, each with its own normalisation, shortcut
and activation, and a concatenation. Every step after the convolution is per channel, so that the joined step's
constants are the concatenated ones.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from bcdnet.compiler.ir import Graph, Node

STEPS = ("gain", "beta", "mul", "add", "shortcut", "prelu")


def merge_twins(graph: Graph) -> None:
    """Rewrite every such concatenation in place."""
    position = 0
    while position < len(graph.nodes):
        node = graph.nodes[position]
        if node.type == "concat" and node.kind == "map" and (chains := _twins(graph, node)):
            # What the rewrite adds comes right after the concatenation, before everything that reads it.
            later = graph.nodes[position + 1 :]
            del graph.nodes[position + 1 :]
            merged = _merge(graph, chains)
            graph.nodes += later
            graph.replace(node, merged)
            graph.prune()
            position = 0
        position += 1


def _twins(graph: Graph, concat: Node) -> list[list[Node]] | None:
    """The chains convolution, step, ..., step that the concatenation joins; None unless they are alike."""
    users = graph.users()
    if any(users[source] != [concat] for source in concat.inputs):
        return None
    chains = [_chain(source, users) for source in concat.inputs]
    if not all(chains):
        return None
    first = chains[0]
    for chain in chains[1:]:
        if [node.type for node in chain] != [node.type for node in first] or not _alike(chain[0], first[0]):
            return None
        pairs = zip(chain[1:], first[1:], strict=True)
        if any(_present(a) != _present(b) for a, b in pairs) or _roundings(chain) != _roundings(first):
            return None
    return chains


def _chain(tail: Node, users: dict[Node, list[Node]]) -> list[Node]:
    """From the binary convolution to `tail`, each read by the next alone; empty where there is none."""
    if tail.type == "binary_conv2d":
        return [tail]
    if tail.type not in STEPS:
        return []
    for source in tail.inputs if tail.type == "shortcut" else tail.inputs[:1]:
        if users[source] == [tail] and (chain := _chain(source, users)):
            return [*chain, tail]
    return []


def _alike(a: Node, b: Node) -> bool:
    same = all(a.attrs[key] == b.attrs[key] for key in ("stride", "padding"))
    branches = [
        (x[0].shape[1:], x[2]) == (y[0].shape[1:], y[2])
        for x, y in zip(a.attrs["branches"], b.attrs["branches"], strict=False)
    ]
    return same and a.inputs == b.inputs and len(a.attrs["branches"]) == len(b.attrs["branches"]) and all(branches)


def _roundings(chain: list[Node]) -> list[bool]:
    """Where two steps are one function's, which rounds once."""
    return [a.name == b.name for a, b in pairwise(chain)]


def _present(step: Node) -> set[str]:
    return {key for key, value in step.attrs.items() if value is not None}


def _merge(graph: Graph, chains: list[list[Node]]) -> Node:
    bases = [chain[0] for chain in chains]
    branches = [
        (np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), parts[0][2])
        for parts in zip(*(base.attrs["branches"] for base in bases), strict=True)
    ]
    first = bases[0]
    value = graph.binary_conv2d(first.inputs[0], first.name, branches, first.attrs["stride"], first.attrs["padding"])
    for depth in range(1, len(chains[0])):
        steps = [chain[depth] for chain in chains]
        attrs: dict[str, Any] = {
            key: None if steps[0].attrs[key] is None else np.concatenate([step.attrs[key] for step in steps])
            for key in steps[0].attrs
        }
        others = [_other(chain[depth], chain[depth - 1]) for chain in chains]
        more = [graph.concat([node for node in others if node], steps[0].name)] if others[0] else []
        value = graph.step(steps[0].type, value, steps[0].name, *more, **attrs)
    return value


def _other(step: Node, main: Node) -> Node | None:
    """What the step brings to its chain: the shortcut's map, or the vector gain or beta."""
    if step.type == "shortcut":
        return step.inputs[1] if step.inputs[0] is main else step.inputs[0]
    return step.inputs[1] if step.type in ("gain", "beta") else None
