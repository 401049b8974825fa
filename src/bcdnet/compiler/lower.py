"""Traced graph -> intermediate form: walks the torch.fx graph and dispatches on module type, function or method."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from bcdnet.compiler.in_place import check_in_place
from bcdnet.compiler.ir import Graph, Value
from bcdnet.compiler.lower_functions import FUNCTIONS, METHODS
from bcdnet.compiler.lower_modules import MODULES
from bcdnet.compiler.lowering import Handler, Lowering
from bcdnet.compiler.trace import METHODS_OF_LAYERS, module_path
from bcdnet.errors import CompileError


def lower(module: fx.GraphModule, input_size: tuple[int, int, int]) -> Graph:
    """A whole traced module as a graph of single steps. Raises CompileError naming the module path and the reason."""
    low = Lowering(input_size)
    values: dict[fx.Node, Any] = {}
    check_in_place(module)
    for node in module.graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
        if node.op == "placeholder":
            values[node] = Value(low.graph.image, low.graph.image.shape)
        elif node.op == "get_attr":
            values[node] = _attribute(module, str(node.target))
        elif node.op == "output":
            _outputs(low, args[0])
        else:
            values[node] = _operation(low, module, node, args, kwargs)
    low.graph.prune()
    return low.graph


def _operation(low: Lowering, module: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
    path = module_path(node)
    if node.op == "call_module":
        layer = module.get_submodule(path)
        handler, label, name, args = _module_handler(layer, path), type(layer).__name__, path, (layer, *args)
    else:
        is_method = node.op == "call_method"
        handler = METHODS.get(str(node.target)) if is_method else FUNCTIONS.get(node.target)
        label = str(node.target) if is_method else getattr(node.target, "__name__", str(node.target))
        name = f"{path}.{label}" if path != "the module" else label
    if handler is None:
        raise CompileError(f"{path}: {label} cannot be packed")
    try:
        return handler(low, name, *args, **kwargs)
    except (IndexError, TypeError) as error:
        raise CompileError(f"{path}: {label} with these arguments cannot be packed ({error})") from error


def _module_handler(layer: nn.Module, path: str) -> Handler | None:
    for cls in type(layer).__mro__:
        if cls in MODULES:
            for method in METHODS_OF_LAYERS:
                if getattr(type(layer), method, None) is not getattr(cls, method, None):
                    raise CompileError(f"{path}: {type(layer).__name__} overrides {cls.__name__}.{method}")
            return MODULES[cls]
    return None


def _outputs(low: Lowering, result: Any) -> None:
    if isinstance(result, dict):
        named = {str(key): value for key, value in result.items()}
        if len(named) < len(result):
            raise CompileError(f"the outputs {', '.join(map(repr, result))} have equal names as text")
    elif isinstance(result, (tuple, list)):
        named = {f"output{i}": value for i, value in enumerate(result)}
    else:
        named = {"logits": result}
    for name, value in named.items():
        if not isinstance(value, Value) or len(value.torch_shape) != 1:
            found = ["N", *value.torch_shape] if isinstance(value, Value) else type(value).__name__
            raise CompileError(f"output {name!r}: is {found}; a program returns vectors [N, C]: pool or flatten it")
        node = low.graph.as_vector(value.node, name)
        if node in low.graph.outputs.values():
            node = low.graph.copy(node, name)
        low.graph.outputs[name] = node


def _attribute(module: nn.Module, path: str) -> Any:
    target: Any = module
    for part in path.split("."):
        target = getattr(target, part)
    return target
