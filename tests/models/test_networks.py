import dataclasses
import re

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import nn

from bcdnet.errors import RecipeError
from bcdnet.models import VARIANTS, build, configure, default_preprocess, name_of
from bcdnet.nn import (
    ESTIMATORS,
    BinaryLayer,
    BinaryMLPBlock,
    ContextualConvBlock,
    ContextualEmbedding,
    PointwiseBlock,
    RPReLU,
    RSign,
    Sign,
    set_weight_bits,
)

SMALL = {"num_classes": 10, "width": 0.25}


def side_of(name: str) -> int:
    return 32 if name.endswith("_small") else 64


def settings_of(name: str) -> dict:
    return SMALL | ({"img_size": 64} if name == "binary_mixer" else {})


@pytest.mark.parametrize("name", VARIANTS)
def test_every_model_through_timm(name):
    model = timm.create_model(name, **settings_of(name), drop_rate=0.0, global_pool="avg").eval()
    x = torch.randn(2, 3, side_of(name), side_of(name))
    logits = model(x)
    assert logits.shape == (2, 10) and torch.isfinite(logits).all()
    features = model.forward_features(x)
    assert features.shape[1] == model.num_features
    torch.testing.assert_close(model.forward_head(features), logits)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    small = name.endswith("_small")
    assert model.pretrained_cfg["input_size"] == ((3, 32, 32) if small else (3, 224, 224))
    assert model.pretrained_cfg["crop_pct"] == (1 if small else 0.875)

    matcher = timm.models.group_parameters(model, model.group_matcher())
    assert sum(len(names) for names in matcher.values()) == len(list(model.named_parameters()))
    latent = {name for name, _ in model.named_parameters() if name.endswith("latent_weight")}
    small = {name for name, parameter in model.named_parameters() if parameter.dim() <= 1}
    assert model.no_weight_decay() == small | latent
    set_weight_bits(model, 32)
    assert model.no_weight_decay() == small
    set_weight_bits(model, 1)

    model.reset_classifier(7)
    assert model(x).shape == (2, 7) and model.config.num_classes == model.num_classes == 7
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)


@pytest.mark.parametrize("name", VARIANTS)
def test_images_are_normalised_as_those_of_imagenet(name):
    found = default_preprocess(name)
    assert (found["mean"], found["std"]) == (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)


def test_a_block_of_the_twin_is_one_group():
    model = timm.create_model("mobilenet_v1_twin_small", width=0.125)
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert len(groups) == 1 + 13 + 1  # stem, blocks, head


@pytest.mark.parametrize("branches", [(), ("far",)])
def test_branches_are_known_even_where_no_block_has_them(branches):
    with pytest.raises(RecipeError, match="mlp_branches: one or more of none, short, long"):
        configure("reactnet_r18_small", mlp_branches=branches)


@pytest.mark.parametrize("name", VARIANTS)
def test_features_only(name):
    backbone = timm.create_model(name, features_only=True, **settings_of(name)).eval()
    side = side_of(name)
    maps = backbone(torch.randn(1, 3, side, side))
    assert [m.shape[1] for m in maps] == backbone.feature_info.channels()
    assert [side // m.shape[-1] for m in maps] == backbone.feature_info.reduction()


def test_forward_intermediates():
    settings = {"width": 0.25, "layers": (1, 1, 1, 2), "mlp_blocks": 3}
    model = timm.create_model("bcdnet_b_r18_small", **settings).eval()
    listed = timm.create_model("bcdnet_b_r18_small", **settings, features_only=True).eval()
    flat = {re.sub(r"^(stem|stages)\.", r"\1_", name): tensor for name, tensor in model.state_dict().items()}
    listed.load_state_dict(flat, strict=False)
    x = torch.randn(2, 3, 32, 32)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x)) and len(maps) == 4
    assert all(torch.equal(a, b) for a, b in zip(maps, listed(x), strict=True))
    early, some = model.forward_intermediates(x, [0, 2], stop_early=True)
    assert torch.equal(early, maps[2]) and [m.shape for m in some] == [maps[0].shape, maps[2].shape]
    (only,) = model.forward_intermediates(x, 1, intermediates_only=True)
    assert torch.equal(only, last)
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")
    with pytest.raises(IndexError):
        model.forward_intermediates(x, [4])
    with pytest.raises(ValueError, match="1 to 4 maps"):
        model.forward_intermediates(x, 5)

    getter = timm.create_model("bcdnet_b_r18_small", width=0.25, features_only=True, feature_cls="getter").eval()
    assert [m.shape[1] for m in getter(x)] == getter.feature_info.channels()


@pytest.mark.parametrize(
    ("name", "changes"),
    [(name, {}) for name in VARIANTS if name.endswith("_small")] + [("reactnet_r18_small", {"embedding": "full"})],
)
def test_torch_fx_sees_through_every_network(name, changes):
    """As torchvision's create_feature_extractor does."""
    model = timm.create_model(name, **settings_of(name), **changes).eval()
    x = torch.randn(2, 3, side_of(name), side_of(name))
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("stages", [1, 3, 5])
def test_features_of_any_number_of_stages(stages):
    backbone = timm.create_model("reactnet_r18_small", layers=(1,) * stages, width=0.25, features_only=True).eval()
    assert backbone.feature_info.channels() == [16 * 2**stage for stage in range(stages)]


@pytest.mark.parametrize("name", ["bcdnet_b_r18_small", "reactnet_r18_small"])
def test_pretrained_weights_for_another_number_of_classes(name, tmp_path):
    pretrained = timm.create_model(name, width=1 / 16, num_classes=1000)
    torch.save(pretrained.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    model = timm.create_model(name, width=1 / 16, num_classes=7, pretrained=True, pretrained_cfg_overlay=overlay)
    assert model.num_classes == 7 and torch.equal(model.stem[0].weight, pretrained.stem[0].weight)


def test_a_fresh_head_is_like_the_rest():
    model = build(configure("bcdnet_b_r18_small", width=1 / 16, num_classes=10)).double().eval()
    model.reset_classifier(5)
    assert not model.head.training and model(torch.randn(1, 3, 32, 32, dtype=torch.float64)).shape == (1, 5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_configuration_rebuilds_the_network(name):
    model = build(configure(name, **settings_of(name)))
    twin = build(model.config)
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config


@pytest.mark.parametrize("name", VARIANTS)
def test_a_configuration_has_its_name_and_the_settings_that_differ(name):
    assert name_of(configure(name)) == (name, {})
    settings = {"width": 0.25, "estimator": "clipped_identity"}
    config = configure(name, **settings, num_classes=10, in_chans=1)
    assert name_of(config) == (name, settings)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("bcdnet_a_r18", {"mlp_blocks": 3, "layers": (1, 2, 3), "mlp_branches": ("none",)}),
        ("bcdnet_b_small", {"mlp_blocks": 12, "reduction": 8}),
        ("binary_mixer", {"img_size": 64, "patch_size": 8, "depth": 3}),
        ("reactnet_r18", {"embedding": "alpha"}),
        ("reactnet_a_small", {"embedding": "full", "reduction": 16}),
    ],
)
def test_other_settings_are_found_again(name, settings):
    assert name_of(configure(name, **settings)) == (name, settings)


@pytest.mark.parametrize("name", ["bcdnet_b", "bcdnet_b_r18", "bcdnet_b_small", "bcdnet_b_r18_small"])
@pytest.mark.parametrize("shape", [(64, 64), (65, 96), (71, 50)])
def test_any_input_size(name, shape):
    model = build(configure(name, **SMALL)).eval()
    assert model(torch.randn(1, 3, *shape)).shape == (1, 10)


def blocks(name: str, **settings) -> tuple[int, int, int]:
    """(convolution blocks, MLP blocks, pointwise blocks of the MLP stage)"""
    with torch.device("meta"):
        modules = list(build(configure(name, **settings)).modules())
    mlp = sum(isinstance(m, BinaryMLPBlock) for m in modules)
    pointwise = sum(isinstance(m, PointwiseBlock) for m in modules)
    convolutions = sum(type(m) is ContextualConvBlock for m in modules)
    return convolutions, mlp, pointwise


@pytest.mark.parametrize("mlp,x", [(0, 14), (3, 13), (6, 12), (9, 11), (12, 10), (15, 9)])
def test_trade_off_study(mlp, x):
    """x counts the stem and the convolution blocks, each of two convolutions."""
    assert blocks("bcdnet_a", mlp_blocks=mlp) == (2 * (x - 1), mlp, mlp // 3)


def test_published_architectures():
    assert [c for c, _ in configure("bcdnet_a").blocks] == [64, 128, 128, 256, 256, 512, 512, 512, 512, 1024]
    assert [s for _, s in configure("reactnet_a").blocks] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    assert blocks("reactnet_r18") == (16, 0, 0) and blocks("bcdnet_a_r18") == (13, 9, 0)
    assert blocks("birealnet34") == (32, 0, 0)


def modules(name: str, **settings) -> list[nn.Module]:
    with torch.device("meta"):
        return list(build(configure(name, **settings_of(name), **settings)).modules())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_sign_has_the_estimator_that_was_asked_for(name):
    found = modules(name, estimator="tanh")
    kinds = {type(module.estimator) for module in found if isinstance(module, RSign | Sign)}
    binary = any(isinstance(module, BinaryLayer) for module in found)
    assert kinds == ({ESTIMATORS["tanh"]} if binary else set())


@pytest.mark.parametrize("name", ["reactnet_a_small", "reactnet_r18_small"])
@pytest.mark.parametrize(
    ("kind", "parts"),
    [("none", ""), ("alpha", "alpha"), ("beta", "beta"), ("both", "alpha beta"), ("full", "alpha beta gain")],
)
def test_embeddings_have_the_parts_and_the_size_asked_for(name, kind, parts):
    embeddings = [m for m in modules(name, embedding=kind, reduction=8) if isinstance(m, ContextualEmbedding)]
    assert bool(embeddings) == bool(parts)
    for embedding in embeddings:
        heads = {part: getattr(embedding, f"to_{part}") for part in ("alpha", "beta", "gain")}
        assert [part for part, head in heads.items() if head is not None] == parts.split()
        assert all((head.diagonal is not None) == (kind == "full") for head in heads.values() if head is not None)
        assert embedding.reduce.out_features == max(1, embedding.reduce.in_features // 8)


def test_what_the_published_networks_do_between_convolutions():
    bireal, twin = modules("birealnet18"), modules("mobilenet_v1_twin")
    assert not any(isinstance(module, RSign | RPReLU) for module in bireal)
    assert sum(isinstance(module, nn.ReLU) for module in twin) == sum(isinstance(module, nn.Conv2d) for module in twin)
    stem = build(configure("reactnet_r18", **SMALL)).stem.eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(stem(x), F.max_pool2d(stem[:2](x), 3, 2, 1))


def test_heads_train_apart_and_deploy_as_their_mean():
    model = build(configure("bcdnet_b_small", **SMALL))
    x = torch.randn(2, 3, 32, 32)
    assert isinstance(model(x), torch.Tensor)
    model.set_distilled_training(True)
    logits, logits_dist = model(x)
    assert logits.shape == logits_dist.shape == (2, 10)
    model.eval()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(model(x), (model.head.fc(features) + model.head.fc_dist(features)) / 2)


def test_the_real_valued_twins_have_no_bits():
    for name in ("mobilenet_v1_twin", "resnet18_twin"):
        assert not any(isinstance(m, BinaryLayer) for m in build(configure(name, **SMALL)).modules())


def test_both_steps_are_one_model():
    torch.manual_seed(0)
    model = build(configure("bcdnet_a_small", **SMALL)).eval()
    x = torch.randn(2, 3, 32, 32)
    before, names = model(x), list(model.state_dict())
    set_weight_bits(model, 32)
    assert not torch.equal(model(x), before) and list(model.state_dict()) == names
    set_weight_bits(model, 1)
    assert torch.equal(model(x), before)


def test_grey_images_and_the_width_multiplier():
    model = build(configure("bcdnet_b_r18_small", in_chans=1, width=0.3, num_classes=10)).eval()
    assert model.config.widths == (20, 40, 80, 160)
    assert model(torch.randn(1, 1, 28, 28)).shape == (1, 10)


def test_timm_prepares_grey_images_for_a_network_that_takes_them():
    model = timm.create_model("reactnet_r18_small", in_chans=1, width=0.125)
    assert model.in_chans == 1
    resolve_model_data_config(model, {"in_chans": 1})  # a ValueError where timm takes a network for one of colours


def test_timm_prepares_images_of_the_one_size_that_a_mixer_takes():
    small = {"width": 0.125, "depth": 1}
    model = timm.create_model("binary_mixer_small", pretrained_cfg_overlay={"input_size": (3, 64, 64)}, **small)
    assert model.config.img_size == 64 and resolve_model_data_config(model)["input_size"] == (3, 64, 64)
    model = timm.create_model("binary_mixer_small", img_size=(64, 64), **small)
    assert model.config.img_size == 64 and model.pretrained_cfg["fixed_input_size"]
    with pytest.raises(RecipeError, match="square, not 64 x 32"):
        timm.create_model("binary_mixer_small", img_size=(64, 32), **small)


@pytest.mark.parametrize(
    "name,settings,message",
    [
        ("bcdnet_c", {}, "did you mean 'bcdnet_"),
        ("bcdnet_b", {"widht": 2}, "did you mean 'width'"),
        ("bcdnet_b", {"mlp_blocks": 4}, "groups of three"),
        ("bcdnet_b_r18", {"mlp_blocks": 12}, "at most 9"),
        ("bcdnet_b", {"width": 0}, "above 0"),
        ("bcdnet_b", {"estimator": "cubic"}, "polynomial"),
        ("birealnet18", {"embedding": "both"}, "belong to kind 'reactnet'"),
        ("binary_mixer", {"img_size": 100}, "not a multiple of patch_size"),
        ("reactnet_a", {"in_chans": 0}, "in_chans: from 1 to 1,048,576, not 0"),
        ("bcdnet_b_small", {"embedding": "betta"}, "embedding: must be one of 'none', 'both', 'alpha', 'beta', 'full'"),
        ("bcdnet_b_small", {"distilled": 1}, "distilled: expected true or false"),
        ("resnet18_twin", {"kind": "rael"}, "kind: must be one of"),
        ("mobilenet_v1_twin", {"embedding": "both"}, "belong to kind 'binary'"),
        ("mobilenet_v1_twin", {"mlp_blocks": 3}, "belong to kind 'binary'"),
        ("mobilenet_v1_twin", {"real_groups": 4}, "belong to kind 'binary'"),
        ("binary_mixer_small", {"depth": 0}, "depth: from 1 to 1,000, not 0"),
        ("binary_mixer_small", {"patch_size": 0}, "patch_size: from 1 to 1,048,576, not 0"),
    ],
)
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(RecipeError, match=message):
        build(configure(name, **settings))


def test_maps_before_the_pool_are_pointed_at():
    with pytest.raises(RecipeError, match=r"global_pool is 'avg'; model\.forward_features"):
        timm.create_model("reactnet_a_small", num_classes=0, global_pool="", width=0.25)


def test_irregular_widths_are_named():
    config = configure("reactnet_a")
    with pytest.raises(RecipeError, match="keeps or doubles"):
        dataclasses.replace(config, blocks=((48, 1),))
    with pytest.raises(RecipeError, match="blocks is empty"):
        dataclasses.replace(config, blocks=())


def test_pretrained_without_weights_is_an_error():
    with pytest.raises(RuntimeError, match="No pretrained weights"):
        timm.create_model("bcdnet_b", pretrained=True)
