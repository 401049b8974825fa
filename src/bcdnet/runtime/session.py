"""`InferenceSession`: a packed program ready to run, with ONNX Runtime's interface. Never imports torch.

Legend: N images, C channels, H and W height and width.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bcdnet.errors import BcdnetError, DataError, ProgramError
from bcdnet.hub import PACKED_FILE, download, is_hub_name
from bcdnet.machine import available_threads
from bcdnet.pretrained import locate
from bcdnet.program.decode import to_json
from bcdnet.program.file import read_program
from bcdnet.program.schema import Preprocess, Program
from bcdnet.runtime.cam import Head, find_head
from bcdnet.runtime.cost import Cost, cost
from bcdnet.runtime.native import core
from bcdnet.runtime.prediction import Prediction, check_topk, find_label, rank
from bcdnet.runtime.preprocess import ImageLike, as_images, for_images, to_input

Array = npt.NDArray[np.float32]
MOST_THREADS = 1024  # as in core/runtime/session.cc


@dataclass(frozen=True)
class NodeArg:
    """An input or output as ONNX Runtime describes it; "N" stands for the batch size, which is free."""

    name: str
    shape: list[int | Literal["N"]]
    type: str = "tensor(float)"


@dataclass(frozen=True)
class OpProfile:
    """One op of a profiled run: wall time in seconds for the whole batch, cost per image."""

    name: str
    type: str
    seconds: float
    cost: Cost


class InferenceSession:
    """A `.bcdn` file, a model of `list_pretrained()` or the packed one of `hf-hub:ORG/REPO`, ready to run.

    Any number of threads may share a session.

    `threads`: worker threads for one run, by default all CPUs that the process may use. `target`: instruction set, one
    of `available_targets()`, by default the best one. The results depend on neither.
    Raises ProgramError for a file that is missing, truncated, newer or invalid; BcdnetError for an unknown target, a
    number of threads that is below 1 or cannot be started, a core that is not built, or what the hub does not give;
    MemoryError for weights that do not fit.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, target: str | None = None) -> None:
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise BcdnetError(f"threads: must be 1 to {MOST_THREADS}, got {threads}")
        native = core()
        if target is not None and target not in native.targets():
            raise BcdnetError(f"unknown target {target!r}; this CPU runs {', '.join(native.targets())}")
        if isinstance(path, str) and is_hub_name(path):
            path = download(path, [PACKED_FILE])
        program = read_program(locate(path))
        document = to_json(program)
        try:
            self._session = native.Session(
                document["buffers"], document["ops"], program.tensors, document["inputs"], document["outputs"],
                threads or min(available_threads(), MOST_THREADS), target,
            )  # fmt: skip
        except ValueError as error:
            raise ProgramError(f"{path}: {error}") from error
        except RuntimeError as error:
            raise BcdnetError(f"{error}: ask for fewer, such as threads=1") from error
        except MemoryError:
            raise MemoryError(f"{path}: its weights take more than there is") from None
        self.costs: list[Cost] = [cost(program, op) for op in program.ops]
        self._cam = find_head(program)
        # The core holds its own copy of the weights, laid out for its kernels.
        self._program = replace(program, tensors={})

    @property
    def target(self) -> str:
        """The instruction set in use."""
        return str(self._session.target)

    @property
    def threads(self) -> int:
        """The number of threads of one run."""
        return int(self._session.threads)

    @property
    def program(self) -> Program:
        """The operations and buffers, without the weights, which the core holds."""
        return self._program

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the first output; empty if the file has none."""
        return self._program.labels

    @property
    def preprocess(self) -> Preprocess | None:
        """What `run_images` does to an image."""
        return self._program.preprocess

    @property
    def provenance(self) -> dict[str, Any]:
        """What the file says of its origin."""
        return self._program.provenance

    def get_inputs(self) -> list[NodeArg]:
        """The one input."""
        port = self._program.inputs[0]
        return [NodeArg(port.name, ["N", *self._program.buffers[port.buffer].shape])]

    def get_outputs(self) -> list[NodeArg]:
        """All outputs, in the order of `run(None, ...)`."""
        return [NodeArg(port.name, ["N", *self._program.buffers[port.buffer].shape]) for port in self._program.outputs]

    def run(self, output_names: Sequence[str] | None, feed: Mapping[str, npt.NDArray[Any]]) -> list[Array]:
        """Outputs float32 [N, C] for `{"image": float32 [N, C, H, W]}`, already normalised; all of them for None or [].

        Raises DataError: another input name, shape or dtype, NaN or infinity, an unknown output.
        """
        results = dict(
            zip([port.name for port in self._program.outputs], self._session.run(self._input(feed)), strict=True)
        )
        if not output_names:
            return list(results.values())
        if unknown := [name for name in output_names if name not in results]:
            raise DataError(f"unknown output {unknown[0]!r}; the model has {', '.join(results)}")
        return [results[name] for name in output_names]

    def run_images(self, images: Sequence[ImageLike] | ImageLike) -> list[Array]:
        """All outputs, float32 [N, C], for Pillow images, file names or uint8 arrays, preprocessed as the file says.

        An array is [H, W, 3], [H, W, 4] (alpha is dropped), [H, W, 1] or [H, W]. One image alone is a list of one.
        Raises DataError: no images, one that cannot be read, or a file that says nothing of preprocessing.
        """
        return self.run(None, {self._program.inputs[0].name: self._prepare(images)})

    def predict(self, images: Sequence[ImageLike] | ImageLike, topk: int = 5) -> list[list[Prediction]]:
        """For each image the `topk` most probable classes, best first; an index stands in for a missing label.

        Images as in `run_images`. Raises DataError as it does, for `topk` below 1 and for logits that are not finite.
        """
        check_topk(topk)
        return self.rank(self.run_images(images)[0], topk)

    def rank(self, logits: Array, topk: int = 5) -> list[list[Prediction]]:
        """What `predict` makes of the first output, float32 [N, K]; DataError as there."""
        return rank(logits, self.labels, topk)

    def cam(self, image: ImageLike, label: int | str | None = None) -> Array:
        """Class activation map float32 [h, w] of one image, over the part of it that the network sees.

        `label`: index or name of a class, by default the most probable one. The map's mean is the class's logit less
        its bias: a network that ends in global average pooling and one linear layer says exactly which positions speak
        for a class. Raises BcdnetError saying why for one that ends otherwise, DataError for an unknown label.
        """
        logits, maps = self.run_maps(self._prepare([image]))
        index = int(logits[0].argmax()) if label is None else find_label(label, self.labels, logits.shape[1])
        chosen: Array = self.cams(maps[0], [index])[0]
        return chosen

    def run_maps(self, x: Array) -> tuple[Array, Array]:
        """For normalised float32 [N, C, H, W] the first output [N, K] and the last maps [N, h, w, C'], for `cams`.

        Raises DataError as `run` does, BcdnetError as `cam`.
        """
        head = self._head
        output = self._program.outputs[0].buffer
        found = self.debug({self._program.inputs[0].name: x}, [output, head.map])
        logits: Array = found[output]
        maps: Array = found[head.map]
        return logits, maps

    def cams(self, features: Array, classes: Sequence[int]) -> Array:
        """Class activation maps float32 [len(classes), h, w] of one image's last map [h, w, C'], from `run_maps`."""
        return self._head.activation(features, classes)

    @property
    def cam_problem(self) -> str | None:
        """Why this network has no exact class activation maps, in one sentence; None if it has."""
        return self._cam if isinstance(self._cam, str) else None

    @property
    def _head(self) -> Head:
        if isinstance(self._cam, str):
            raise BcdnetError(self._cam)
        return self._cam

    def profile(self, feed: Mapping[str, npt.NDArray[Any]]) -> list[OpProfile]:
        """One timed run, op by op; input and errors as of `run`."""
        seconds = self._session.profile(self._input(feed))
        return [
            OpProfile(op.name, op.type, spent, price)
            for op, price, spent in zip(self._program.ops, self.costs, seconds, strict=True)
        ]

    def debug(self, feed: Mapping[str, npt.NDArray[Any]], buffers: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
        """Chosen buffers of one run: float32 or, for bits, uint32 words, with the batch as first axis.

        Raises DataError as `run` does, and for what is no buffer that an op writes.
        """
        x = self._input(feed)
        try:
            ids = [operator.index(buffer) for buffer in buffers]
        except TypeError:
            raise DataError(f"expected ids of buffers, got {buffers!r}") from None
        if unknown := [i for i in ids if not 0 <= i < len(self._program.buffers)]:
            raise DataError(f"there is no buffer {unknown[0]}")
        try:
            result: dict[int, npt.NDArray[Any]] = self._session.debug(x, ids)
        except ValueError as error:
            raise DataError(str(error)) from None
        return result

    def _prepare(self, images: Sequence[ImageLike] | ImageLike) -> Array:
        preprocess = for_images(self._program.preprocess)
        images = as_images(images, preprocess.input_size[0])
        if not len(images):
            raise DataError("no images")
        return np.stack([to_input(image, preprocess) for image in images])

    def _input(self, feed: Mapping[str, npt.NDArray[Any]]) -> Array:
        port = self._program.inputs[0]
        if set(feed) != {port.name}:
            raise DataError(f"expected the one input {port.name!r}, got {', '.join(map(repr, feed)) or 'none'}")
        x = feed[port.name]
        shape = self._program.buffers[port.buffer].shape
        if not isinstance(x, np.ndarray) or x.dtype != np.float32:
            found = x.dtype if isinstance(x, np.ndarray) else type(x).__name__
            raise DataError(f"{port.name!r}: expected a float32 array, got {found}")
        if x.ndim != 4 or x.shape[1:] != shape or x.shape[0] < 1:
            raise DataError(f"{port.name!r}: expected shape {['N', *shape]} with N >= 1, got {list(x.shape)}")
        if not np.isfinite(x).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
            raise DataError(f"{port.name!r}: holds {x[where]} at {list(where)}; every value must be finite")
        return np.require(x, requirements=["C", "A", "E"])  # contiguous, aligned, of no subclass


def available_targets() -> list[str]:
    """Instruction sets that this CPU runs, best first."""
    return list(core().targets())
