"""Watches one forward pass on the meta device: which layer runs in which module, on binary or on real-valued maps.

Nothing is computed and the model is not changed: a copy runs whose parameters have shapes but no values.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bcdnet.analysis.costs import Cost, arithmetic, cost, is_block, is_layer, window
from bcdnet.errors import BcdnetError
from bcdnet.nn import RSign, Sign


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions that move values about: what they make of a ±1 map is a ±1 map.
LAYOUT = _names(
    """
    bfloat16 cat channel_shuffle chunk clone concat concatenate contiguous detach double expand expand_as flatten flip
    float gather half hstack index_select movedim narrow permute pixel_shuffle pixel_unshuffle repeat
    repeat_interleave reshape roll select split squeeze stack swapaxes swapdims t tensor_split tile to transpose type
    unbind unflatten unfold unsqueeze view view_as __getitem__
    """
)
# Arithmetic between modules, one operation per element of the result (`__radd__` and the like without underscores).
ARITHMETIC = _names(
    """
    add radd iadd sub rsub isub mul rmul imul div truediv rtruediv maximum minimum neg pow rpow abs square sqrt rsqrt
    exp log reciprocal addcmul addcdiv lerp
    """
)
ACTIVATION = _names(
    """
    relu relu6 leaky_relu hardtanh hardswish hardsigmoid sigmoid tanh silu gelu elu selu celu mish softplus softmax
    clamp clamp_min clamp_max prelu glu hardshrink log_softmax logsigmoid rrelu softmin softshrink softsign tanhshrink
    threshold
    """
)
NORM = _names("layer_norm group_norm instance_norm rms_norm local_response_norm")
REDUCTION = _names("mean sum amax amin std var norm adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d")
WINDOW = _names("avg_pool2d max_pool2d")
# Multiply-accumulates that no module of a known type stands for: counting them as nothing would be a wrong answer.
UNKNOWN = _names(
    """
    addbmm addmm addmv addr baddbmm bilinear bmm cdist chain_matmul conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution dot einsum ger gru gru_cell inner kron linalg_matmul
    linalg_multi_dot linear lstm lstm_cell matmul mm multi_head_attention_forward mv native_multi_head_attention outer
    rmatmul rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention tensordot vdot
    """
)


@dataclass(frozen=True)
class Call:
    """One call of a layer, or one arithmetic operation between the layers of the module `path`."""

    path: str
    kind: str
    cost: Cost
    output: tuple[int, ...]
    activation_bits: int


@dataclass(frozen=True)
class Trace:
    """The copy that ran, on the meta device, and its calls in order."""

    model: nn.Module
    calls: list[Call]


def trace(model: nn.Module, input_size: tuple[int, int, int]) -> Trace:
    """Run a copy of `model` in eval mode on one image of `input_size` (C, H, W).

    Raises BcdnetError, naming the module, for multiply-accumulates that cannot be counted.
    """
    twin = _meta_copy(model)
    recorder = _Recorder(twin)
    with torch.no_grad(), recorder.hooked(twin):
        dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.float32)
        twin(torch.empty((1, *input_size), device="meta", dtype=dtype))
    return Trace(twin, recorder.calls)


def _meta_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose parameters and buffers are on the meta device; `model` stays as it is."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo).eval()


class _Recorder(TorchFunctionMode):
    """Collects calls: of modules whose type `cost` knows by forward hooks, of arithmetic between them as this mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._paths = {module: path for path, module in model.named_modules()}
        self._stack: list[nn.Module] = []
        self._opaque: nn.Module | None = None  # the outermost running module whose cost covers its children
        # Maps that hold ±1 only; kept alive, so that no later tensor takes one's id.
        self._binary: dict[int, Tensor] = {}

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Records while the context is open."""
        with ExitStack() as hooks:
            for module in model.modules():
                hooks.enter_context(module.register_forward_pre_hook(self._enter))
                hooks.enter_context(module.register_forward_hook(self._leave, with_kwargs=True))
            with self:
                yield

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._stack.append(module)
        if self._opaque is None and is_layer(module):
            self._opaque = module

    def _leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._stack.pop()
        if self._opaque not in (None, module):
            return
        self._opaque = None
        source: Any = args[0] if args else next(iter(kwargs.values()), None)
        if is_layer(module):
            self._record(module, cost(module, source, output), source, output)
        elif is_block(module):
            self._record(module, Cost(elementwise=arithmetic(module, source, output)), source, output)
        if isinstance(module, (RSign, Sign)):
            self._binary[id(output)] = output

    def _record(self, module: nn.Module, found: Cost, source: Any, output: Any) -> None:
        shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
        bits = 1 if id(source) in self._binary else 32
        self.calls.append(Call(self._paths[module], type(module).__name__, found, shape, bits))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if (name.endswith("_") and not name.endswith("__")) or name.startswith("__i"):  # in place: `add_`, `__iadd__`
            self._binary.pop(id(output), None)
        if name in LAYOUT or name == "max_pool2d":  # the largest of some ±1 is one of them
            self._pass_on_bits(args, kwargs or {}, output)
        if name not in LAYOUT and self._opaque is None and self._stack:
            self._count_function(name.strip("_"), args, kwargs or {}, output)
        return output

    def _pass_on_bits(self, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        first = _first(args, kwargs)
        sources = first if isinstance(first, (list, tuple)) else (first,)
        if all(id(source) in self._binary for source in sources):
            for result in output if isinstance(output, (list, tuple)) else (output,):
                self._binary[id(result)] = result

    def _count_function(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], output: Any) -> None:
        module = self._stack[-1]
        path = self._paths[module]
        if name in UNKNOWN:
            raise BcdnetError(
                f"{path or 'the model'}: cannot count {name}() outside a known layer; "
                f"register {type(module).__name__} with bcdnet.analysis.costs.cost"
            )
        if is_block(module) or not isinstance(output, Tensor):
            return
        if name in ARITHMETIC and not any(type(arg) is int and arg == 0 for arg in args):  # sum() starts from 0 + x
            operations = {"arithmetic": output.numel()}
        elif name in ACTIVATION:
            operations = {"activation": output.numel()}
        elif name == "batch_norm":
            operations = {"batch_norm": output.numel()}
        elif name in NORM:
            operations = {"norm": 4 * output.numel()}
        elif name in REDUCTION:
            operations = {"pooling": _first(args, kwargs).numel()}
        elif name in WINDOW:
            operations = {"pooling": output.numel() * window(args[1] if len(args) > 1 else kwargs["kernel_size"])}
        else:
            return
        found = Cost(elementwise=operations)
        self.calls.append(Call(path, type(module).__name__, found, tuple(output.shape[1:]), activation_bits=32))


def _first(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a function works on, however it was passed: `mean(x)`, `mean(input=x)`, `cat(tensors=[x, y])`."""
    return args[0] if args else next(iter(kwargs.values()))
