"""`bcdnet verify`: a packed file against the model that it was made from, image by image and bit by bit.

Legend: N images of a batch, C channels, H and W height and width, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from bcdnet.cli.model import ANY_MODEL, packed_file
from bcdnet.cli.table import print_table
from bcdnet.errors import BcdnetError, DataError
from bcdnet.evaluation import check_logits

if TYPE_CHECKING:
    from torch import nn

    from bcdnet.runtime import InferenceSession

Words = npt.NDArray[np.uint32]
TOLERANCE = 1e-3


def run(
    checkpoint: Annotated[str, typer.Argument(help=f"What was exported. {ANY_MODEL}")],
    packed: Annotated[str, typer.Argument(help="The packed file that came of it, or any of these.")],
    data: Annotated[str, typer.Option(help="The dataset: a folder, hf://NAME, wds://… or digits.")],
    split: Annotated[str, typer.Option(help="Which part of it.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="So many images, spread evenly.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the packed model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a packed file with PyTorch's eval mode on real images.

    Shows how often the first class agrees, the largest difference of a logit, and for each binary layer how many of
    its input bits differ and which layer is the first to differ. Exit code 1 where a first class differs, or a logit
    by more than 0.001.
    """
    with packed_file(packed) as file:
        report = compare(checkpoint, file, data, split, limit, batch_size, threads)
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, allow_nan=False))
    else:
        _print(report)
    if not report.agrees:
        raise typer.Exit(1)


@dataclass
class Layer:
    """Input bits of one binary layer: how many were compared and differ, and in how many images it differs first."""

    name: str
    bits: int = 0
    differing: int = 0
    images: int = 0
    first_in: int = 0


@dataclass
class Report:
    """What the comparison found; `first` is the place of the first differing bit, in the first layer that has one."""

    images: int = 0
    same_top1: int = 0
    correct_packed: int = 0
    correct_torch: int = 0
    max_difference: float = 0.0
    layers: list[Layer] = field(default_factory=list)
    first: dict[str, Any] | None = None

    @property
    def agrees(self) -> bool:
        """The same class for every image, and logits within the tolerance."""
        return self.same_top1 == self.images and self.max_difference <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """Figures as plain values; accuracies and agreement in percent."""
        bits = sum(layer.bits for layer in self.layers)
        differing = sum(layer.differing for layer in self.layers)
        return {
            "images": self.images,
            "top1_agreement": 100 * self.same_top1 / self.images,
            "top1_packed": 100 * self.correct_packed / self.images,
            "top1_torch": 100 * self.correct_torch / self.images,
            "max_logit_difference": self.max_difference,
            "bits": bits,
            "differing_bits": differing,
            "differing_rate": differing / bits if bits else 0.0,
            "first_differing": self.first,
            "layers": [vars(layer) for layer in self.layers],
        }


def compare(
    checkpoint: str, packed: Path, data: str, split: str, limit: int | None, batch_size: int, threads: int | None
) -> Report:
    """Run both on `limit` images of a dataset. Raises the errors of reading either file or the data."""
    import torch

    from bcdnet.compiler import load_trained
    from bcdnet.data import evaluate_transform
    from bcdnet.data.dataset import spread
    from bcdnet.data.match import open_for
    from bcdnet.data.resize import to_pixels
    from bcdnet.runtime import InferenceSession
    from bcdnet.runtime.preprocess import to_input
    from bcdnet.training.assess import data_config

    loaded = load_trained(checkpoint)
    session = InferenceSession(packed, threads=threads)
    config = data_config(loaded, data, split)
    dataset = open_for(loaded.class_names, checkpoint, data, split)
    classes = int(session.get_outputs()[0].shape[1])
    if classes != len(loaded.class_names) or (session.labels and list(session.labels) != loaded.labels):
        raise BcdnetError(f"{packed}: names other classes than {checkpoint}; export it again")
    if session.preprocess is None or session.preprocess.input_size != tuple(loaded.preprocess["input_size"]):
        raise BcdnetError(f"{packed}: was packed for another input size than {checkpoint}'s; export it again")
    for key in ("interpolation", "crop_pct"):  # which images that have the input's size do not show
        if (found := getattr(session.preprocess, key)) != (wanted := loaded.preprocess[key]):
            raise BcdnetError(f"{packed}: has {key} {found}, {checkpoint} has {wanted}; export it again")
    chosen = spread(len(dataset), limit or len(dataset))
    comparison = _Comparison(loaded.model, session)
    # Batches of equal size: PyTorch sums in another order for a batch of one or two.
    for indices in np.array_split(chosen, -(-len(chosen) // batch_size)):
        images = [(dataset.image(index), dataset.where(index)) for index in map(int, indices)]
        pixels = torch.from_numpy(np.stack([to_pixels(image, config, config.image_size, at) for image, at in images]))
        ours = np.stack([to_input(image, session.preprocess, at) for image, at in images])
        theirs = evaluate_transform(pixels, config)
        if not np.array_equal(ours, theirs.numpy()):
            raise DataError(f"{packed}: preprocesses images otherwise than {checkpoint}; export it again")
        comparison.batch(theirs, ours, dataset.labels[indices], indices)
    return comparison.report


class _Comparison:
    """Both models, and what was found so far."""

    def __init__(self, module: nn.Module, session: InferenceSession) -> None:
        from bcdnet.nn import BinaryLayer
        from bcdnet.program.schema import BinaryConv2d

        self.module = module
        self.session = session
        self.report = Report()
        known = {name for name, child in module.named_modules() if isinstance(child, BinaryLayer)}
        # An op is named after the layer whose weights it holds first, and that layer sees its input as rolled.
        self.ops = [op for op in session.program.ops if isinstance(op, BinaryConv2d) and op.name in known]
        self.layers = {op.name: Layer(op.name) for op in self.ops}
        self.report.layers = list(self.layers.values())

    def batch(self, images: Any, ours: Any, labels: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]) -> None:
        """Compare one batch: normalised images [N, C, H, W] for torch and for the packed file, labels [N].

        Raises DataError for logits that are not finite.
        """
        import torch

        feed = {self.session.get_inputs()[0].name: ours}
        logits = self.session.run(None, feed)[0]
        with torch.no_grad(), self._recorded() as recorded:
            reference = self.module(images).numpy()
        check_logits(reference)
        check_logits(logits)
        report = self.report
        report.images += len(labels)
        report.same_top1 += int((logits.argmax(1) == reference.argmax(1)).sum())
        report.correct_packed += int((logits.argmax(1) == labels).sum())
        report.correct_torch += int((reference.argmax(1) == labels).sum())
        report.max_difference = max(report.max_difference, float(np.abs(logits - reference).max()))
        packed = self.session.debug(feed, [op.input for op in self.ops])
        clean = np.ones(len(labels), bool)
        for op in self.ops:
            self._layer(op, packed[op.input], recorded[op.name], clean, indices)

    @contextmanager
    def _recorded(self) -> Iterator[dict[str, Words]]:
        """Packed inputs [N, H, W, words] of every compared layer during a forward pass, by module path."""
        from bcdnet.program.reference import pack_bits

        recorded: dict[str, Words] = {}

        def keep(name: str, _module: nn.Module, inputs: Any) -> None:
            # Maps are [N, C, H, W]; a linear layer's input is [N, ..., I], whose pixels are the axes between.
            array = inputs[0].numpy()
            flat = (len(array), 1, -1, array.shape[-1])
            recorded[name] = pack_bits(array.transpose(0, 2, 3, 1) if array.ndim == 4 else array.reshape(flat))

        with ExitStack() as hooks:
            for op in self.ops:
                layer = self.module.get_submodule(op.name)
                hooks.enter_context(layer.register_forward_pre_hook(partial(keep, op.name)))
            yield recorded

    def _layer(self, op: Any, ours: Words, theirs: Words, clean: npt.NDArray[np.bool_], indices: Any) -> None:
        from bcdnet.program.reference import pack_bits, roll, unpack_bits

        channels = self.session.program.buffers[op.input].shape[2]
        if op.branches[0].shift != "none":
            ours = pack_bits(roll(unpack_bits(ours, channels), op.branches[0].shift))
        layer = self.layers[op.name]
        layer.bits += len(ours) * ours.shape[1] * ours.shape[2] * channels
        if np.array_equal(ours, theirs):
            return
        flips = unpack_bits(ours ^ theirs, channels) > 0
        per_image = flips.reshape(len(flips), -1).sum(1)
        layer.differing += int(per_image.sum())
        layer.images += int((per_image > 0).sum())
        layer.first_in += int((clean & (per_image > 0)).sum())
        if self.report.first is None:
            image, y, x, channel = (int(i) for i in np.argwhere(flips)[0])
            place = {"row": y, "column": x, "channel": channel}
            self.report.first = {"image": int(indices[image]), "layer": op.name, **place}
        clean &= per_image == 0


def _print(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    figures = report.to_json()
    table = Table(show_header=False)
    for _ in range(2):
        table.add_column(no_wrap=True)
    for name, value in (
        ("same first class", f"{report.same_top1:,} ({figures['top1_agreement']:.4g} %)"),
        ("top-1, packed", f"{figures['top1_packed']:.2f} %"),
        ("top-1, PyTorch", f"{figures['top1_torch']:.2f} %"),
        ("largest logit difference", f"{report.max_difference:.3g}"),
        ("differing binary activations", f"{figures['differing_bits']:,} of {figures['bits']:,}"),
    ):
        table.add_row(name, value)
    print_table(table, f"{report.images:,} images")
    if report.first is not None:
        layers = Table()
        for column in ("layer", "bits", "differing", "rate", "images", "first in"):
            layers.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
        for layer in report.layers:
            if layer.differing:
                rate = f"{layer.differing / layer.bits:.2g}"
                counts = (f"{layer.bits:,}", f"{layer.differing:,}", rate, f"{layer.images:,}", f"{layer.first_in:,}")
                layers.add_row(Text(layer.name), *counts)
        print_table(layers, "layers whose input differs")
        typer.echo(
            "first: image {image}, {layer}, row {row}, column {column}, channel {channel}".format(**report.first)
        )
    typer.echo("the packed file and PyTorch agree" if report.agrees else "the packed file and PyTorch differ")
