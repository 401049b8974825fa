"""`bcdnet explain`: where a model looks, and what the branches of its MLP blocks add."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from bcdnet.cli.model import Model, find_trained, model_files
from bcdnet.errors import BcdnetError, printable
from bcdnet.files import refuse_overwriting, whole_file


def run(
    checkpoint: Model,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write; the PNGs go beside it.")],
    versus: Annotated[str | None, typer.Option(help="A second model, shown beside the first.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Class, by name or index; by default what the first model takes it for.")
    ] = None,
) -> None:
    """Grad-CAM of one model or of two side by side, and the contribution maps of each binary MLP block.

    Writes one HTML file that needs nothing beside it, NAME.png with the class activation maps and, for a model with MLP
    blocks, NAME-branches.png (NAME-branches-2.png for the second). Where it replaces an earlier page, that one's other
    figures are removed.
    """
    from bcdnet.analysis.cam import Explanation, explain
    from bcdnet.analysis.cam_figure import draw_cams, draw_contributions
    from bcdnet.analysis.cam_page import holds, render
    from bcdnet.decoded_images import open_image
    from bcdnet.program.schema import Preprocess
    from bcdnet.runtime.prediction import find_label
    from bcdnet.runtime.preprocess import to_input

    if output.suffix.lower() not in (".html", ".htm"):
        raise BcdnetError(f"{output}: the page is an HTML file; give a name that ends in .html")
    names = [checkpoint] if versus is None else [checkpoint, versus]
    cams = output.with_suffix(".png")
    branches_of = [output.with_name(f"{output.stem}-branches{part}.png") for part in ("", "-2")]
    figures = [cams, *branches_of[: len(names)]]
    refuse_overwriting([output, *figures], [image, *(file for name in names for file in model_files(name))])
    # Beside its page a figure is one of an earlier run; alone it is somebody's picture.
    if not output.exists() and (others := [str(path) for path in figures if path.exists()]):
        raise BcdnetError(f"{', '.join(others)}: is there and would be replaced; give -o another name than {output}")
    models = [find_trained(name) for name in names]
    warnings.filterwarnings("ignore", module="PIL")  # of large images, which its own limit on pixels is for
    picture = open_image(image)

    explanations: list[Explanation] = []
    for shown, found in zip(_short(names), models, strict=True):
        preprocess = Preprocess(
            input_size=found.input_size,
            mean=tuple(found.preprocess["mean"]),
            std=tuple(found.preprocess["std"]),
            interpolation=found.preprocess["interpolation"],
            crop_pct=found.preprocess["crop_pct"],
        )
        # The second model is asked about what the first one saw, so that the two can be compared.
        first = explanations[0] if explanations else None
        index = None
        classes = int(getattr(found.module, "num_classes", 0))
        if first is not None and (list(first.labels), len(first.probabilities)) == (found.labels, classes):
            index = first.label  # not by its name, which another class may share
        elif first is not None and label is None:
            try:
                index = find_label(first.named(first.label), found.labels, classes)
            except BcdnetError as error:
                raise BcdnetError(
                    f"--versus {versus}: does not know {first.named(first.label)!r}, which {checkpoint} takes this "
                    "for; say with --label which class of both to look for"
                ) from error
        elif label is not None:
            index = find_label(label, found.labels, classes)
        constants = (preprocess.mean, preprocess.std)
        x = to_input(picture, preprocess, str(image))
        explanations.append(explain(shown, found.module, x, found.labels, constants, index))

    with_blocks = {  # there may be no second one
        path: explanation
        for path, explanation in zip(branches_of, explanations, strict=False)
        if explanation.contributions
    }
    written = [cams, *with_blocks, output]
    with ExitStack() as files:
        # All of them or none. The page, entered last, is the first to get its name: beside it the figures are ours.
        beside = {path: files.enter_context(whole_file(path)) for path in written}
        before = [path for path in branches_of if path.is_file() and output.exists() and holds(output, path)]
        draw_cams(explanations, beside[cams])
        for path, explanation in with_blocks.items():
            draw_contributions(explanation, beside[path])
        page = render(f"{image.name} explained", explanations, beside[cams], [beside[path] for path in with_blocks])
        beside[output].write_text(page, encoding="utf-8")
    stale = [path for path in before if path not in with_blocks and not path.samefile(image)]
    for path in stale:
        path.unlink()
    for explanation in explanations:
        share = 100 * explanation.probabilities[explanation.label]
        typer.echo(printable(f"{explanation.name}: {explanation.named(explanation.label)} {share:.1f} %"))
    typer.echo(printable(f"wrote {', '.join(str(path) for path in (output, cams, *with_blocks))}"))
    if stale:
        typer.echo(printable(f"removed {', '.join(map(str, stale))}, which the page before had"))


def _short(names: list[str]) -> list[str]:
    """The last parts of each path, as few as tell the models apart; the names themselves where none do."""
    parts = [Path(name).resolve().parts for name in names]
    for count in range(1, max(map(len, parts))):
        short = [str(Path(*path[-count:])) for path in parts]
        if len(set(short)) == len(names):
            return short
    return names
