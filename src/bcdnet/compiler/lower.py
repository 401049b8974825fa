"""Traced graph -> intermediate form: walks the torch.fx graph and dispatches on module type, function or method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

from torch import fx, nn

from bcdnet.compiler.in_place import check_in_place
from bcdnet.compiler.ir import Graph, Value
from bcdnet.compiler.lower_functions import FUNCTIONS, METHODS
from bcdnet.compiler.lower_modules import MODULES
from bcdnet.compiler.lowering import Handler, Lowering
from bcdnet.compiler.trace import METHODS_OF_LAYERS, module_path, trace
from bcdnet.errors import CompileError

_ALONE = RLock()  # fx diverts torch's modules and puts back what it found there, which would be another tracing's


def lower(module: nn.Module, input_size: tuple[int, int, int]) -> Graph:
    """The whole module as a graph of single steps. Raises CompileError naming the module path and the reason."""
    with _ALONE, _left_as_it_was(module):
        low = Lowering(input_size)
        values: dict[fx.Node, Any] = {}
        graph = trace(module)
        check_in_place(module, graph)
        for node in graph.nodes:
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


@contextmanager
def _left_as_it_was(module: nn.Module) -> Iterator[None]:
    """Tracing leaves on modules what it made of numbers, and there and in dicts what stands for maps that they keep."""
    owned = [own for child in module.modules() for own in (vars(child), *vars(child).values())]
    before = [(own, dict(own)) for own in owned if isinstance(own, dict)]
    try:
        yield
    finally:
        for own, kept in before:
            for name in own.keys() - kept:
                del own[name]
            for name, value in kept.items():
                if own.get(name) is not value:
                    own[name] = value


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
