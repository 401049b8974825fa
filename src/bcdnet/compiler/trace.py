"""torch.fx tracing in which blocks are looked through and layers are leaves; failures name the module path."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock, get_ident
from typing import Any, cast

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from bcdnet.errors import CompileError
from bcdnet.nn import (
    BinaryLayer,
    ContextLinear,
    Duplicate,
    LongRangeShift,
    RPReLU,
    RSign,
    ShortRangeShift,
    Sign,
    SpatialMean,
)

LEAVES = (Sign, RSign, RPReLU, BinaryLayer, ShortRangeShift, LongRangeShift, Duplicate, SpatialMean, ContextLinear)


FIXED = "a packed program always computes the same"
_ALONE = RLock()  # fx diverts torch's modules and puts back what it found there, which would be another tracing's
METHODS_OF_LAYERS = ("forward", "_conv_forward")  # what a layer computes; torch's convolutions do it in the second
ASSIGNMENTS = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def _recorded(assignment: Callable[[Any, Any], Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", assignment, (self, other), {})


class _Proxy(fx.Proxy):
    """Records `y += x` as what it is; Python makes `y = y + x` of it for fx's own, which spares other names of y."""

    __iadd__, __isub__, __imul__, __itruediv__ = map(_recorded, ASSIGNMENTS)

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        if not hasattr(torch.Tensor, name):  # for `hasattr`, to which fx says yes
            raise AttributeError(f"'Tensor' object has no attribute '{name}'")
        return super().__getattr__(name)


class _Reproducible(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch gives its modes no types
    """Refuses random numbers, of this thread alone: others may go on training meanwhile."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RuntimeError(f"it draws random numbers; {FIXED}")
        return func(*args, **(kwargs or {}))


class _Tracer(fx.Tracer):
    """Leaves are torch.nn's layers and ours; `failed` is the deepest module whose forward could not be traced.

    fx diverts the modules of every thread while it traces; those of others compute here what they always do.
    """

    failed = ""

    def __init__(self) -> None:
        super().__init__()
        self.thread = get_ident()

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """Parameters after the image that have a default stand at it: `if features is None` is no proxy's business."""
        forward, values = super().create_args_for_root(*args, **kwargs)
        for value in values[2:]:  # where fx has the default; that of *rest and **options is to hold nothing
            if (name := str(value.node.target)).startswith("*"):
                value.node.args = ({} if name.startswith("**") else (),)
        return forward, values[:2] + [next(iter(value.node.args), value) for value in values[2:]]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A subclass of a layer of torch's is one, too, as long as it computes the same.
        defining = next(cls for cls in type(m).__mro__ if "forward" in vars(cls))
        own = not defining.__module__.startswith("torch.nn.") or defining in (nn.Module, nn.Sequential)
        return isinstance(m, LEAVES) or not own or super().is_leaf_module(m, module_qualified_name)

    def path_of_module(self, mod: nn.Module) -> str:
        try:
            return super().path_of_module(mod)
        except NameError:
            raise NameError(f"{type(mod).__name__} is no submodule; make it in __init__, lists as ModuleList") from None

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if get_ident() != self.thread:
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def trace(module: nn.Module) -> fx.GraphModule:
    """The graph of an eval-mode module with one tensor input, and the layers and tensors that it names.

    Raises CompileError: training mode, or Python control flow that depends on the data.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise CompileError("the module: is TorchScript, which cannot be traced; pack the module that it was made from")
    tensors = _tensors(module)
    for name, weights in tensors.items():
        if is_lazy(weights):
            raise CompileError(f"{name}: has no shape yet; call the module on an image first")
        if weights.is_meta:
            raise CompileError(f"{name}: is on torch's meta device, where there are no weights")
    for name, child in module.named_modules():
        if child.training:
            raise CompileError(f"{name or 'the module'}: is in training mode; call .eval() on the module first")
    tracer, reproducible = _Tracer(), cast(Any, _Reproducible)
    _refuse_changed(module, tracer)
    # Tensors made in inference mode have no version; out of it, torch itself refuses to change them.
    versions = {name: tensor._version for name, tensor in tensors.items() if not tensor.is_inference()}
    with _ALONE, _left_as_it_was(module):
        try:
            with torch.inference_mode(False), torch.no_grad(), reproducible():
                graph = tracer.trace(module)
        except Exception as error:
            path = tracer.failed or "the module"
            raise CompileError(f"{path}: its forward cannot be traced: {' '.join(str(error).split())}") from error
        left = _tensors(module)
        for name, tensor in tensors.items():
            if left.get(name) is not tensor or (name in versions and tensor._version != versions[name]):
                raise CompileError(f"{name}: is changed by the module's forward; {FIXED}")
        inputs = [node for node in graph.nodes if node.op == "placeholder"]
        if len(inputs) != 1 and any(not node.args for node in inputs[1:]):
            raise CompileError(f"the module: takes {len(inputs)} inputs; a packed program has one, the image")
        for node in inputs[1:]:
            graph.erase_node(node)
        return fx.GraphModule(module, graph)


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


def check_trace(module: nn.Module, traced: fx.GraphModule, input_size: tuple[int, int, int]) -> None:
    """CompileError where a traced module computes something else than the module itself, of one random image.

    A forward may find out that it is traced: `isinstance(x, torch.Tensor)` is False then, and `nn.Identity()(x) is x`.
    It may compute under an autocast of its own, of which a graph knows nothing, or something else the next time.
    """
    image = torch.randn(1, *input_size, generator=torch.Generator())
    image = image.to(next((tensor for tensor in _tensors(module).values() if tensor.is_floating_point()), image))
    with _ALONE, _left_as_it_was(module), torch.inference_mode(False), torch.no_grad():
        try:
            expected = [module(image.clone()) for _ in range(2)]
        except Exception as error:
            raise CompileError(f"the module: its forward fails on an image: {' '.join(str(error).split())}") from error
        found = traced(image)
    try:
        torch.testing.assert_close([found, found], expected, rtol=0, atol=0, equal_nan=True)
    except AssertionError:
        raise CompileError(
            "the module: computes something else than a trace of it, as where its forward asks whether x is a "
            "torch.Tensor, has a torch.autocast of its own, or counts; leave that out"
        ) from None


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict((*module.named_parameters(), *module.named_buffers()))


def _refuse_changed(module: nn.Module, tracer: _Tracer) -> None:
    """CompileError where a hook, or a method of the instance, changes what is computed and tracing does not see it.

    That is on the whole module, of which the class's `forward` is traced, on a leaf and within one.
    """
    leaves = [(name, leaf) for name, leaf in module.named_modules() if tracer.is_leaf_module(leaf, name)]
    within = (found for name, leaf in leaves for found in leaf.named_modules(prefix=name))
    for path, child in (("the module", module), *within):
        if child._forward_hooks or child._forward_pre_hooks:
            raise CompileError(
                f"{path or 'the module'}: has a forward hook, which no packed file can hold; remove it first "
                "(torch.nn.utils.weight_norm: remove_weight_norm)"
            )
        for method in METHODS_OF_LAYERS:
            if method in vars(child):
                raise CompileError(
                    f"{path or 'the module'}: its {method} was replaced on the instance; put it into a class of its own"
                )


def module_path(node: fx.Node) -> str:
    """Where in the module tree a traced operation stands: the path of the innermost module around it."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    return paths[-1] if paths and paths[-1] else "the module"
