"""`bcdnet train`: run a recipe."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, such as recipes/digits.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Changes to it: data.path=DIR run_dir=OUT epochs=1 steps.step1.lr=1e-3"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in run_dir exactly where it stopped.")
    ] = False,
    show: Annotated[bool, typer.Option("--print", help="Print the resolved recipe as YAML and exit.")] = False,
) -> None:
    """Train what a recipe says: its teacher, step 1 (binary activations), step 2 (binary weights too).

    `epochs` or `iterations` alone sets the length of every step. The run folder then holds model.safetensors, metrics,
    curves, checkpoints, and the resolved recipe.
    """
    from bcdnet.training.recipe_file import load_recipe, to_yaml

    resolved = load_recipe(recipe, overrides or [])
    if show:
        from bcdnet.training.build import design

        if resolved.model.name is not None:
            design(resolved.model, 2, resolved.data.channels)  # an error for what the network does not take
        typer.echo(to_yaml(resolved), nl=False)
        return
    from bcdnet.training.run import train

    train(resolved, resume=resume, say=typer.echo)
