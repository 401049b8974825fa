"""`bcdnet explain`: where a model looks, and what the branches of its MLP blocks add."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bcdnet.cli.model import find_model, model_files
from bcdnet.errors import BcdnetError, printable
from bcdnet.files import refuse_overwriting, whole_file


def run(
    checkpoint: Annotated[str, typer.Argument(help="A run folder, a model file, packed or not, or a shipped name.")],
    image: Annotated[Path, typer.Argument(help="An image file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write; the PNGs go beside it.")],
    versus: Annotated[
        str | None, typer.Option(help="A second model, shown beside the first.", show_default=False)
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Class, by name or index; by default what the first model takes it for.", show_default=False),
    ] = None,
) -> None:
    """Grad-CAM of one model or of two side by side, and the contribution maps of each binary MLP block.

    Writes one HTML file that needs nothing beside it, NAME.png with the class activation maps and, for a model with MLP
    blocks, NAME-branches.png (NAME-branches-2.png for the second).
    """
    from bcdnet.analysis.cam import Explanation, explain
    from bcdnet.analysis.cam_figure import draw_cams, draw_contributions
    from bcdnet.analysis.cam_page import render
    from bcdnet.program.schema import Preprocess
    from bcdnet.runtime.prediction import find_label
    from bcdnet.runtime.preprocess import open_image, to_input

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
    models = [find_model(name) for name in names]
    picture = open_image(image)
    output.parent.mkdir(parents=True, exist_ok=True)

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
        wanted = explanations[0].named(explanations[0].label) if label is None and explanations else label
        index = (
            None if wanted is None else find_label(wanted, found.labels, int(getattr(found.module, "num_classes", 0)))
        )
        constants = (preprocess.mean, preprocess.std)
        x = to_input(picture, preprocess, str(image))
        explanations.append(explain(shown, found.module, x, found.labels, constants, index))

    draw_cams(explanations, cams)
    branches: list[Path] = []
    for explanation, path in zip(explanations, branches_of, strict=False):  # there may be no second one
        if explanation.contributions:
            draw_contributions(explanation, path)
            branches.append(path)
    page = render(f"{image.name} explained", explanations, cams, branches)
    with whole_file(output) as beside:
        beside.write_text(page, encoding="utf-8")
    for explanation in explanations:
        share = 100 * explanation.probabilities[explanation.label]
        typer.echo(printable(f"{explanation.name}: {explanation.named(explanation.label)} {share:.1f} %"))
    typer.echo(f"wrote {', '.join(str(path) for path in (output, cams, *branches))}")


def _short(names: list[str]) -> list[str]:
    """The last part of each path, if that still tells the models apart."""
    short = [Path(name).name for name in names]
    return short if len(set(short)) == len(names) else names
