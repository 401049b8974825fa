"""Tensors that share memory: what is overwritten under one name must not be read under another.

`x.relu_()` lowers to a new value, since a program's values never change. Whoever reads `x` afterwards, or a view of it,
would read the new one in PyTorch and the old one in the program; such a module is refused. So is one that overwrites a
parameter, with which it computes something else the next time.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from bcdnet.compiler.trace import ASSIGNMENTS, FIXED, module_path
from bcdnet.errors import CompileError

# By name where fx calls a method.
VIEWS = {
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, F.dropout, operator.getitem, torch.flatten, torch.transpose,
    torch.reshape, "flatten", "view", "reshape", "view_as", "reshape_as", "transpose", "contiguous", "float",
}  # fmt: skip
OVERWRITING = {*ASSIGNMENTS, "add_", "mul_", "relu_"}


def check_in_place(module: fx.GraphModule) -> None:
    """Raise CompileError, naming the module path, where a tensor is read after it was overwritten elsewhere."""
    memory: dict[fx.Node, fx.Node] = {}  # of the node that made it
    seen: dict[fx.Node, int] = {}  # how often the memory had been overwritten when the node was computed
    overwritten: dict[fx.Node, list[str]] = {}  # by the memory, the module paths that did it
    sizes: set[fx.Node] = set()  # numbers, or tuples of them, which nothing overwrites
    for node in module.graph.nodes:
        if _is_shape(node) or (node.all_input_nodes and sizes.issuperset(node.all_input_nodes)):
            sizes.add(node)
        for read in node.all_input_nodes:
            later = overwritten[memory[read]][seen[read] :]
            if later:
                remedy = "use its result, or inplace=False"
                raise CompileError(f"{later[0]}: computes in place what {module_path(node)} reads afterwards; {remedy}")
        target = _layer_type(module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
        in_place = node not in sizes and (target in OVERWRITING or (target not in VIEWS and _asked_for(module, node)))
        shares = (in_place or target in VIEWS) and bool(node.args) and isinstance(node.args[0], fx.Node)
        memory[node] = memory[node.args[0]] if shares else node
        changes = overwritten.setdefault(memory[node], [])
        if in_place:
            if memory[node].op == "get_attr":
                raise CompileError(f"{memory[node].target}: is changed by the module's forward; {FIXED}")
            changes.append(module_path(node))
        seen[node] = len(changes)


def _is_shape(node: fx.Node) -> bool:
    return node.target in ("size", getattr) and (node.op == "call_method" or node.args[1:] == ("shape",))


def _layer_type(layer: nn.Module) -> type[nn.Module]:
    """The view that it is a subclass of, else its own."""
    return next((cls for cls in type(layer).__mro__ if cls in VIEWS), type(layer))


def _asked_for(module: nn.Module, node: fx.Node) -> bool:
    layer: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    positional = node.target is F.relu and node.args[1:2] == (True,)
    return bool(getattr(layer, "inplace", False) or node.kwargs.get("inplace", False) or positional)
