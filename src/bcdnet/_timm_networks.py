"""The named networks as timm's models. Imported while timm is, see `_timm_hook`."""

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from bcdnet.errors import RecipeError
from bcdnet.models import TIMM_LAYERS, VARIANTS, build, configure, default_preprocess, parameters_of

# What timm's scripts pass to every model, where it asks for nothing.
NEUTRAL = {"drop_rate": 0.0, "drop_path_rate": 0.0, "global_pool": "avg"}

default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "fixed_input_size": "img_size" in parameters_of(name),
            **default_preprocess(name),
            **TIMM_LAYERS,
        }
        for name in VARIANTS
    }
)


def _settings(img_size: Any = None, **others: Any) -> dict[str, Any]:
    """Settings of ours from those that timm passes, where an image's size is (height, width)."""
    if img_size is None:
        return others
    height, width = img_size if isinstance(img_size, tuple | list) else (img_size, img_size)
    if height != width:
        raise RecipeError(f"img_size: images are square, not {height} x {width}")
    return {"img_size": height, **others}


def create_for_timm(name: str, entry: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """What timm's `create_model` asks of `entry`, which is a named network with some settings, or that name itself."""
    for key, neutral in NEUTRAL.items():
        if kwargs.get(key) == neutral:
            del kwargs[key]
    if "global_pool" in kwargs:
        raise RecipeError("global_pool is 'avg'; model.forward_features(images) gives the maps before it")
    settings = _settings(**{key: kwargs[key] for key in parameters_of(name) if key in kwargs})
    with torch.device("meta"):  # only to count the stages
        stages = len(build(configure(name, **settings)).stages)
    return build_model_with_cfg(
        lambda **settings: build(configure(name, **_settings(**settings))),
        entry,
        pretrained,
        feature_cfg={"out_indices": tuple(range(stages)), "flatten_sequential": True},
        **kwargs,
    )


def _register(name: str) -> None:
    def entry(pretrained: bool = False, **kwargs: Any) -> Any:
        return create_for_timm(name, name, pretrained, **kwargs)

    entry.__name__ = name
    entry.__doc__ = f"{name}: settings are those of `bcdnet.models.configure({name!r})`."
    register_model(entry)


for _name in VARIANTS:
    _register(_name)
