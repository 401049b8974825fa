"""Every named network: which family builds it, with which settings, and for which images."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_type_hints

from bcdnet.config import convert, from_dict
from bcdnet.errors import RecipeError
from bcdnet.imagenet import IMAGENET_MEAN, IMAGENET_STD
from bcdnet.models.mixer import MixerConfig, build_mixer, mixer_config, mixer_settings
from bcdnet.models.mobilenet import MobileNetConfig, build_mobilenet, mobilenet_config, mobilenet_settings
from bcdnet.models.network import Network, NetworkConfig
from bcdnet.models.resnet import ResNetConfig, build_resnet, resnet_config, resnet_settings


@dataclass(frozen=True)
class Family:
    """A kind of configuration, what builds its networks, what makes it of a name's settings, and what finds these again
    where they are no fields of it, or others.
    """

    config: type[NetworkConfig]
    build: Callable[[Any], Network]
    configure: Callable[..., NetworkConfig]
    settings: Callable[[Any], dict[str, Any]]


FAMILIES = {
    "mobilenet": Family(MobileNetConfig, build_mobilenet, mobilenet_config, mobilenet_settings),
    "resnet": Family(ResNetConfig, build_resnet, resnet_config, resnet_settings),
    "mixer": Family(MixerConfig, build_mixer, mixer_config, mixer_settings),
}

# name -> (family, settings); `<name>_small` is the same with a stem that keeps 32 and 64 px images at their size.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "reactnet_a": ("mobilenet", {}),
    "reactnet_b": ("mobilenet", {"real_groups": 4}),
    "reactnet_c": ("mobilenet", {"real_groups": 1}),
    "bcdnet_a": ("mobilenet", {"mlp_blocks": 9, "distilled": True}),
    "bcdnet_b": ("mobilenet", {"mlp_blocks": 9, "distilled": True, "embedding": "both"}),
    "mobilenet_v1_twin": ("mobilenet", {"kind": "separable"}),
    "reactnet_r18": ("resnet", {}),
    "bcdnet_a_r18": ("resnet", {"mlp_blocks": 9, "distilled": True}),
    "bcdnet_b_r18": ("resnet", {"mlp_blocks": 9, "distilled": True, "embedding": "both"}),
    "birealnet18": ("resnet", {"kind": "bireal"}),
    "birealnet34": ("resnet", {"kind": "bireal", "layers": (6, 8, 12, 6)}),
    "resnet18_twin": ("resnet", {"kind": "real"}),
    "binary_mixer": ("mixer", {}),
}
VARIANTS |= {f"{name}_small": (family, settings | {"small": True}) for name, (family, settings) in VARIANTS.items()}


def family_of(config: NetworkConfig) -> str:
    """The name of the family that a configuration belongs to."""
    return next(name for name, family in FAMILIES.items() if type(config) is family.config)


def build(config: NetworkConfig) -> Network:
    """The network of a configuration, with fresh weights."""
    return FAMILIES[family_of(config)].build(config)


def _check_known(kind: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
        raise RecipeError(f"unknown {kind} '{name}': {hint}")


def configure(name: str, **settings: Any) -> NetworkConfig:
    """The configuration of a named network. RecipeError for a name, a setting or a value that does not exist."""
    _check_known("model", name, VARIANTS)
    family, defaults = VARIANTS[name]
    make = FAMILIES[family].configure
    hints = get_type_hints(make)
    for setting in settings:
        _check_known(f"setting of {name}", setting, parameters_of(name))
    typed = {setting: convert(hints[setting], value, setting) for setting, value in settings.items()}
    config = make(**(defaults | typed))
    return from_dict(type(config), asdict(config))  # as a file of it will be read: a value of another type is refused


def name_of(config: NetworkConfig) -> tuple[str, dict[str, Any]]:
    """The name and the fewest settings of which `configure` makes a network like this one, classes and channels aside.

    Raises RecipeError for a network of which no name and settings are known.
    """
    family = family_of(config)
    parameters = inspect.signature(FAMILIES[family].configure).parameters
    given = vars(config) | FAMILIES[family].settings(config)
    settings = {key: given[key] for key in parameters if key not in ("num_classes", "in_chans")}
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    own = {
        name: {key: value for key, value in settings.items() if value != (defaults | variant)[key]}
        for name, (kind, variant) in VARIANTS.items()
        if kind == family
    }
    name = min(own, key=lambda candidate: len(own[candidate]))
    data = {"num_classes": config.num_classes, "in_chans": config.in_chans}
    if configure(name, **data, **own[name]) != config:
        raise RecipeError("no name and settings of bcdnet's stand for this network")
    return name, own[name]


# Which layers timm fits to other channels and classes: one head, or the two of a distilled network.
TIMM_LAYERS = {"first_conv": "stem.0", "classifier": ("head", "head.fc", "head.fc_dist")}


def default_preprocess(name: str) -> dict[str, Any]:
    """The images that a named network is made for, as timm's `pretrained_cfg` says it: size, crop and normalisation."""
    small = name.endswith("_small")
    return {
        "input_size": (3, 32, 32) if small else (3, 224, 224),
        "crop_pct": 1.0 if small else 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }


def parameters_of(name: str) -> Mapping[str, inspect.Parameter]:
    """The settings that `configure` takes for this name, and their defaults."""
    return inspect.signature(FAMILIES[VARIANTS[name][0]].configure).parameters
