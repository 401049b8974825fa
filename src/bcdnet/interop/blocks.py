"""Rules for the layers that the reference's networks have in common."""

from collections.abc import Iterator

from bcdnet.interop.renaming import Rule


def batch_norm(target: str, *sources: str) -> Iterator[Rule]:
    """A BatchNorm; several side by side are one with all their channels."""
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        yield Rule(f"{target}.{name}", tuple(f"{source}.{name}" for source in sources))


def linear(target: str, source: str) -> Iterator[Rule]:
    """A linear layer with bias."""
    for name in ("weight", "bias"):
        yield Rule(f"{target}.{name}", (f"{source}.{name}",))


def rprelu(target: str, move_in: str, prelu: str, move_out: str) -> Iterator[Rule]:
    """An RPReLU, which the reference spells as three modules."""
    yield Rule(f"{target}.bias_in", (f"{move_in}.bias",), "bias")
    yield Rule(f"{target}.weight", (f"{prelu}.weight",))
    yield Rule(f"{target}.bias_out", (f"{move_out}.bias",), "bias")


def single_block(target: str, source: str, convs: dict[str, str]) -> Iterator[Rule]:
    """A block with one binarised map; `convs` maps our names of its binary layers to the reference's."""
    yield Rule(f"{target}.binarize.bias", (f"{source}.move0.bias",), "bias")
    for ours, theirs in convs.items():
        yield Rule(f"{target}.{ours}.latent_weight", (f"{source}.{theirs}.weight",), "binary")
    yield from batch_norm(f"{target}.bn", f"{source}.bn1")
    yield from rprelu(f"{target}.act", f"{source}.move1", f"{source}.prelu", f"{source}.move2")
