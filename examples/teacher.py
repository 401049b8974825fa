"""Fine-tune one of timm's networks as the teacher of a recipe, on the recipe's own data and augmentation.

    python examples/teacher.py recipes/cifar10_taught.yaml --frozen conv_stem bn1 blocks.0 blocks.1
    bcdnet train recipes/cifar10_taught.yaml run_dir=runs/cifar10_taught

The recipe's `teacher` says which network (`model`, `kwargs`), at which size it sees the images (`image_size`) and which
file it is written to (`checkpoint`). It begins with timm's own weights, which need its hub or its cache, or with those
of `--weights`, a file of the same state dict. Words of the form key=value change the recipe.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import save_file
from torch import nn

from bcdnet.data import Batches, preprocess_of
from bcdnet.errors import BcdnetError
from bcdnet.files import lasting_file
from bcdnet.training.assess import pick_device
from bcdnet.training.data import RunData, augmentation
from bcdnet.training.module import mixed_seed
from bcdnet.training.recipe import Recipe, TeacherConfig
from bcdnet.training.recipe_file import load_recipe
from bcdnet.training.teacher import Teacher, examine

WARMUP = 150  # iterations, of a short training half of them


def pretrained(config: TeacherConfig, weights: Path | None, num_classes: int, channels: int) -> Any:
    """timm's network with what it has learned, but a head for other classes."""
    settings = {"num_classes": num_classes, "in_chans": channels, **config.kwargs}
    elsewhere = None if weights is None else {"file": str(weights)}
    network: Any = timm.create_model(str(config.model), pretrained=True, pretrained_cfg_overlay=elsewhere, **settings)
    return network.to(memory_format=torch.channels_last)


def freeze(network: nn.Module, names: list[str]) -> list[nn.Module]:
    """The modules of these names, which stay as they are, batch statistics included.

    So do the weights of depthwise convolutions: they are few, and on a CPU their gradients take as long as all others.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.weight.requires_grad_(False)
    return [network.get_submodule(name).requires_grad_(False) for name in names]


def fine_tune(network: nn.Module, frozen: list[nn.Module], recipe: Recipe, data: RunData, args: Any) -> None:
    """AdamW along a cosine; weight decay on matrices and kernels alone."""
    step = recipe.steps[0]
    source = data.train(step.augment)
    device = pick_device(recipe.trainer.accelerator)
    network.to(device)
    batches = Batches(source, step.batch_size, seed=recipe.seed, drop_last=True, device=device)
    augment = augmentation(source, recipe.data)
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in learned if parameter.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [parameter for parameter in learned if parameter.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr)
    total, done = args.epochs * len(batches), 0
    warmup = min(WARMUP, max(1, total // 2))
    size = recipe.teacher.image_size if recipe.teacher and recipe.teacher.image_size else recipe.data.image_size
    for epoch in range(args.epochs):
        network.train()
        for module in frozen:
            module.eval()
        for pixels, labels in track(batches(epoch), f"epoch {epoch + 1} of {args.epochs}", len(batches)):
            images, targets = augment(pixels, labels, mixed_seed(recipe.seed, done))
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=size < images.shape[-1])
            fallen = max(0, done - warmup) / max(1, total - warmup)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1, (done + 1) / warmup) * (1 + math.cos(math.pi * fallen)) / 2
            with torch.autocast(device.type, torch.bfloat16):
                logits = network(images.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), targets).backward()
            optimizer.step()
            done += 1


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("words", nargs="*", metavar="key=value", default=[])
    parser.add_argument("--weights", type=Path, help="a file instead of timm's hub")
    parser.add_argument("--frozen", nargs="*", default=[], metavar="MODULE", help="parts that stay as they are")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.02)
    args = parser.parse_intermixed_args()
    # Behind --frozen, which takes all words that follow, too: no module's name has such a sign.
    words = [*args.words, *(name for name in args.frozen if "=" in name)]
    args.frozen = [name for name in args.frozen if "=" not in name]
    recipe = load_recipe(args.recipe, words)
    config = recipe.teacher
    if config is None or config.model is None or not str(config.checkpoint).endswith(".safetensors"):
        parser.error(f"{args.recipe}: its teacher needs a model, and a .safetensors file as its checkpoint to write")
    torch.manual_seed(recipe.seed)
    data = RunData(recipe)
    try:
        network = pretrained(config, args.weights, len(data.class_names), recipe.data.channels)
    except OSError as error:  # the hub's errors among them
        reason = str(error).strip().partition("\n")[0]
        parser.error(f"cannot get the weights of {config.model} ({reason}); --weights FILE takes them from a file")
    fine_tune(network, freeze(network, args.frozen), recipe, data, args)
    path = Path(str(config.checkpoint)).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    with lasting_file(path) as beside:
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, beside)
    own = preprocess_of(recipe.data)
    found = examine(Teacher(network, own, own, config.image_size), recipe, data)
    print(f"{path}: {found.top1:.2f} % top-1 of {found.images:,} images")


if __name__ == "__main__":
    try:
        main()
    except BcdnetError as error:
        raise SystemExit(f"error: {error}") from None
