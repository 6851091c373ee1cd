"""Tests that models with the weights of timm's and torchvision's models compute their logits."""

import functools

import library_tensors
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402

from noah_tf import create_model  # noqa: E402
from noah_tf.models import load_official_weights  # noqa: E402


def import_torchvision():
    """Imports torchvision, even beside a PyTorch that cannot load its compiled operators.

    The package index has torchvision for PyTorch with CUDA only. No classifier uses the operators,
    but beside a PyTorch without CUDA torchvision does not import unless these two are declared.
    """
    try:
        return pytest.importorskip("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            signature = "(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)
        return pytest.importorskip("torchvision")


torchvision = import_torchvision()
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.slow
SMALL = (64, 64, 3)
FULL = (224, 224, 3)
# Architecture → images, timm's model, torchvision's model.
MODELS = {
    "resnet18": (SMALL, "resnet18", "resnet18"),
    "resnet34": (SMALL, "resnet34", "resnet34"),
    "resnet50": (SMALL, "resnet50", "resnet50"),
    "resnet101": (SMALL, "resnet101", "resnet101"),
    "resnet152": (SMALL, "resnet152", "resnet152"),
    "mobilenetv2_100": (SMALL, "mobilenetv2_100", "mobilenet_v2"),
    "mobilenetv2_075": (SMALL, "mobilenetv2_075", None),
    "mobilenetv2_050": (SMALL, "mobilenetv2_050", None),
    "mobilenetv2_035": (SMALL, "mobilenetv2_035", None),
    "shufflenetv2_050": (SMALL, None, "shufflenet_v2_x0_5"),
    "shufflenetv2_100": (SMALL, None, "shufflenet_v2_x1_0"),
    "shufflenetv2_150": (SMALL, None, "shufflenet_v2_x1_5"),
    "shufflenetv2_200": (SMALL, None, "shufflenet_v2_x2_0"),
    "deit_tiny_patch16_224": (FULL, "deit_tiny_patch16_224", None),
    "deit_small_patch16_224": (SMALL, "deit_small_patch16_224", None),
    "deit_base_patch16_224": (SMALL, "deit_base_patch16_224", "vit_b_16"),
    "vit_large_patch16_224": (SMALL, "vit_large_patch16_224", "vit_l_16"),
    "mixer_b16_224": (FULL, "mixer_b16_224", None),
    "mixer_s16_224": (FULL, "mixer_s16_224", None),
    "gmlp_s16_224": (FULL, "gmlp_s16_224", None),
    "gmlp_ti16_224": (FULL, "gmlp_ti16_224", None),
}


def build(library, name, image_size=224):
    """Returns a library's model without memory for its weights."""
    options = {}
    if image_size != 224 and name.startswith(("deit", "vit")):
        options["img_size" if library == "timm" else "image_size"] = image_size
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    with torch.device("meta"):
        return create(name, **options).eval()


@torch.no_grad()
def randomize(net):
    """Fills a model with random weights and statistics, for which its logits are of usual size."""
    net = net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(1000)
        elif tensor.dim() > 1:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            mean = 1.0 if name.endswith("weight") else 0.0
            tensor.normal_(mean, 0.1, generator=generator)
    return net


def check_logits(model, net, input_shape):
    images = np.random.default_rng(0).normal(size=(2, *input_shape)).astype(np.float32)
    with torch.inference_mode():
        expected = net(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    error = np.abs(np.asarray(model(images)) - expected).max() / expected.std()
    print(f"{model.name}: {error:.1e} standard deviations")
    assert np.isfinite(error) and error <= 1e-4


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_equal_those_of_the_libraries(tmp_path, architecture):
    input_shape, *names = MODELS[architecture]
    model = create_model(architecture, input_shape=input_shape)
    for library, name, suffix in zip(
        ("timm", "torchvision"), names, ("safetensors", "pth"), strict=True
    ):
        if name is None:
            continue
        net = randomize(build(library, name, input_shape[0]))
        path = tmp_path / f"model.{suffix}"
        save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
        save(net.state_dict(), path)
        load_official_weights(model, path)
        path.unlink()
        check_logits(model, net, input_shape)


@pytest.mark.parametrize(
    ("layout", "library", "name"),
    [
        (library_tensors.resnet18, "torchvision", "resnet18"),
        (library_tensors.resnet18, "timm", "resnet18"),
        (library_tensors.shufflenetv2, "torchvision", "shufflenet_v2_x1_0"),
        (functools.partial(library_tensors.timm_mobilenetv2, 1.0), "timm", "mobilenetv2_100"),
        (library_tensors.timm_mobilenetv2, "timm", "mobilenetv2_035"),
        (
            functools.partial(library_tensors.torchvision_mobilenetv2, 1.0),
            "torchvision",
            "mobilenet_v2",
        ),
        (library_tensors.deit_tiny, "timm", "deit_tiny_patch16_224"),
        (functools.partial(library_tensors.torchvision_vit, 768), "torchvision", "vit_b_16"),
        (library_tensors.mixer_s16, "timm", "mixer_s16_224"),
        (library_tensors.gmlp_s16, "timm", "gmlp_s16_224"),
    ],
)
def test_the_layouts_of_the_other_tests_are_the_libraries(layout, library, name):
    tensors = build(library, name).state_dict()
    assert layout() == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("timm", "mobilenetv3_small_100"),
        ("torchvision", "mobilenet_v3_small"),
        ("timm", "deit_tiny_distilled_patch16_224"),
    ],
)
@pytest.mark.parametrize("head", ["load", "skip"])
def test_models_that_differ_are_refused(library, name, head):
    tensors = build(library, name).state_dict()
    is_deit = name.startswith("deit")
    model = create_model("noah_deit_tiny_patch16_224" if is_deit else "noah_mobilenetv3_small", 2)
    reason = "second class token" if is_deit else f"the MobileNetV3 of {library} has squeeze"
    with pytest.raises(ValueError, match=reason):
        load_official_weights(model, tensors, head=head)


def test_a_published_file_starts_a_noah_model(tmp_path):
    net = randomize(build("timm", "resnet18"))
    torch.save({"state_dict": net.state_dict(), "arch": "resnet18"}, tmp_path / "model.pth.tar")
    model = create_model(
        "noah_resnet18", 3, SMALL, weights=tmp_path / "model.pth.tar", weights_head="skip"
    )
    images = np.random.default_rng(0).normal(size=(2, *SMALL)).astype(np.float32)
    with torch.inference_mode():
        expected = net.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2))
    head = model.get_layer("noah_head")
    logits = head(expected.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(model(images), logits, rtol=1e-4, atol=1e-4)
