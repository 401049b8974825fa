"""The models that come with the package, under their own names, as timm's pretrained ones.

Imported while timm is, perhaps from within `bcdnet.models`: our side of torch is there once a model is asked for.
"""

from typing import Any

from timm.models import generate_default_cfgs, register_model

from bcdnet.pretrained import list_pretrained, locate
from bcdnet.program.file import read_program


def _pretrained_cfg(name: str) -> dict[str, Any]:
    path = locate(name)
    program = read_program(path)
    assert program.preprocess is not None
    return {
        **vars(program.preprocess),
        "num_classes": len(program.labels),
        "label_names": program.labels,
        "file": str(path),
    }


default_cfgs = generate_default_cfgs({name: _pretrained_cfg(name) for name in list_pretrained()})


def _register(name: str) -> None:
    def entry(pretrained: bool = False, pretrained_cfg_overlay: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        from bcdnet._timm_networks import create_for_timm
        from bcdnet.compiler import load_trained
        from bcdnet.models import TIMM_LAYERS, name_of

        trained = load_trained(name).model
        variant, settings = name_of(trained.config)
        given = pretrained_cfg_overlay or {}
        overlay: dict[str, Any] = {**TIMM_LAYERS, **given}
        if pretrained and not given.keys() & {"file", "url", "hf_hub_id"}:  # weights from elsewhere
            overlay.setdefault("state_dict", trained.state_dict())  # of a packed file, which timm cannot read
        model = create_for_timm(variant, name, pretrained, pretrained_cfg_overlay=overlay, **settings | kwargs)
        model.pretrained_cfg.pop("state_dict", None)
        return model

    entry.__name__ = name
    entry.__doc__ = f"{name}: the shipped model of this name with `pretrained`; else a fresh network of its shape."
    register_model(entry)


for _name in list_pretrained():
    _register(_name)
