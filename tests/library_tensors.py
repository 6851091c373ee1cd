"""The names and shapes of the tensors in files of timm, torchvision and the official repositories.

A layout is a dict name → shape in the reference's order. test_other_libraries_torch.py compares the
layouts with timm's and torchvision's own models. They are not in conftest.py, for the reason in
shared_data.py.
"""

import numpy as np


def random_tensors(layout, seed=0):
    """Returns a dict name → random array; variances and counters are not negative."""
    rng = np.random.default_rng(seed)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in layout.items()}
    for name, array in tensors.items():
        if name.endswith("running_var"):
            tensors[name] = np.abs(array)
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.array(1000)
    return tensors


def layer(name, *kernel):
    """Returns a convolution, linear layer or LayerNorm with a bias."""
    return {f"{name}.weight": kernel, f"{name}.bias": kernel[:1]}


def conv_norm(conv, norm, outputs, inputs, size):
    """Returns a convolution without a bias and its batch normalization."""
    layout = {f"{conv}.weight": (outputs, inputs, size, size)}
    for part in ("weight", "bias", "running_mean", "running_var"):
        layout[f"{norm}.{part}"] = (outputs,)
    return {**layout, f"{norm}.num_batches_tracked": ()}


def resnet18(classes=1000):
    """Returns the layout of torchvision's and timm's resnet18."""
    layout = conv_norm("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for index in range(2):
            block = f"layer{stage}.{index}"
            layout |= conv_norm(f"{block}.conv1", f"{block}.bn1", width, inputs, 3)
            layout |= conv_norm(f"{block}.conv2", f"{block}.bn2", width, width, 3)
            if inputs != width:
                shortcut = f"{block}.downsample"
                layout |= conv_norm(f"{shortcut}.0", f"{shortcut}.1", width, inputs, 1)
            inputs = width
    return {**layout, **layer("fc", classes, 512)}


def shufflenetv2(classes=1000):
    """Returns the layout of torchvision's shufflenet_v2_x1_0."""
    layout = conv_norm("conv1.0", "conv1.1", 24, 3, 3)
    inputs = 24
    for stage, (width, blocks) in enumerate(((116, 4), (232, 8), (464, 4)), start=2):
        half = width // 2
        for index in range(blocks):
            block = f"stage{stage}.{index}"
            first = index == 0
            if first:
                branch = f"{block}.branch1"
                layout |= conv_norm(f"{branch}.0", f"{branch}.1", inputs, 1, 3)
                layout |= conv_norm(f"{branch}.2", f"{branch}.3", half, inputs, 1)
            branch = f"{block}.branch2"
            layout |= conv_norm(f"{branch}.0", f"{branch}.1", half, inputs if first else half, 1)
            layout |= conv_norm(f"{branch}.3", f"{branch}.4", half, 1, 3)
            layout |= conv_norm(f"{branch}.5", f"{branch}.6", half, half, 1)
        inputs = width
    return {**layout, **conv_norm("conv5.0", "conv5.1", 1024, 464, 1), **layer("fc", classes, 1024)}


# The channels of the stem and the stages; the last convolution always has 1,280.
MOBILENETV2_WIDTHS = {
    1.0: (32, 16, 24, 32, 64, 96, 160, 320),
    0.35: (16, 8, 8, 16, 24, 32, 56, 112),
}
MOBILENETV2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)


def timm_mobilenetv2(width=0.35, classes=1000):
    """Returns the layout of timm's mobilenetv2_100 or mobilenetv2_035."""
    stem, *widths = MOBILENETV2_WIDTHS[width]
    layout = conv_norm("conv_stem", "bn1", stem, 3, 3)
    inputs = stem
    for stage, (outputs, blocks) in enumerate(zip(widths, MOBILENETV2_BLOCKS, strict=True)):
        for index in range(blocks):
            block = f"blocks.{stage}.{index}"
            if stage == 0:
                layout |= conv_norm(f"{block}.conv_dw", f"{block}.bn1", inputs, 1, 3)
                layout |= conv_norm(f"{block}.conv_pw", f"{block}.bn2", outputs, inputs, 1)
            else:
                hidden = 6 * inputs
                layout |= conv_norm(f"{block}.conv_pw", f"{block}.bn1", hidden, inputs, 1)
                layout |= conv_norm(f"{block}.conv_dw", f"{block}.bn2", hidden, 1, 3)
                layout |= conv_norm(f"{block}.conv_pwl", f"{block}.bn3", outputs, hidden, 1)
            inputs = outputs
    layout |= conv_norm("conv_head", "bn2", 1280, inputs, 1)
    return {**layout, **layer("classifier", classes, 1280)}


def torchvision_mobilenetv2(width=0.35, classes=1000):
    """Returns the layout of torchvision's mobilenet_v2, whose published file has width 1."""
    stem, *widths = MOBILENETV2_WIDTHS[width]
    layout = conv_norm("features.0.0", "features.0.1", stem, 3, 3)
    inputs, number = stem, 1
    for stage, (outputs, blocks) in enumerate(zip(widths, MOBILENETV2_BLOCKS, strict=True)):
        for _ in range(blocks):
            conv, part = f"features.{number}.conv", 0
            hidden = 6 * inputs if stage else inputs
            if stage:
                layout |= conv_norm(f"{conv}.0.0", f"{conv}.0.1", hidden, inputs, 1)
                part = 1
            layout |= conv_norm(f"{conv}.{part}.0", f"{conv}.{part}.1", hidden, 1, 3)
            layout |= conv_norm(f"{conv}.{part + 1}", f"{conv}.{part + 2}", outputs, hidden, 1)
            inputs, number = outputs, number + 1
    layout |= conv_norm("features.18.0", "features.18.1", 1280, inputs, 1)
    return {**layout, **layer("classifier.1", classes, 1280)}


def deit_tiny(classes=1000):
    """Returns the layout of timm's and the DeiT repository's deit_tiny_patch16_224."""
    layout = {"cls_token": (1, 1, 192), "pos_embed": (1, 197, 192)}
    layout |= layer("patch_embed.proj", 192, 3, 16, 16)
    for index in range(12):
        block = f"blocks.{index}"
        layout |= layer(f"{block}.norm1", 192)
        layout |= layer(f"{block}.attn.qkv", 576, 192) | layer(f"{block}.attn.proj", 192, 192)
        layout |= layer(f"{block}.norm2", 192)
        layout |= layer(f"{block}.mlp.fc1", 768, 192) | layer(f"{block}.mlp.fc2", 192, 768)
    return {**layout, **layer("norm", 192), **layer("head", classes, 192)}


def torchvision_vit(width=192, classes=1000, first="mlp.0", second="mlp.3"):
    """Returns the layout of torchvision's ViT with 12 blocks: vit_b_16 if `width` is 768."""
    layout = {"class_token": (1, 1, width), "encoder.pos_embedding": (1, 197, width)}
    layout |= layer("conv_proj", width, 3, 16, 16)
    for index in range(12):
        block = f"encoder.layers.encoder_layer_{index}"
        attention = f"{block}.self_attention"
        layout |= layer(f"{block}.ln_1", width)
        layout[f"{attention}.in_proj_weight"] = (3 * width, width)
        layout[f"{attention}.in_proj_bias"] = (3 * width,)
        layout |= layer(f"{attention}.out_proj", width, width) | layer(f"{block}.ln_2", width)
        layout |= layer(f"{block}.{first}", 4 * width, width)
        layout |= layer(f"{block}.{second}", width, 4 * width)
    return {**layout, **layer("encoder.ln", width), **layer("heads.head", classes, width)}


def pvt_tiny(classes=1000):
    """Returns the layout of the PVT repository's pvt_tiny."""
    widths, ratios, reductions = (64, 128, 320, 512), (8, 8, 4, 4), (8, 4, 2, 1)
    layout = {
        f"pos_embed{n}": (1, tokens, w)
        for n, tokens, w in zip(
            (1, 2, 3, 4), (56 * 56, 28 * 28, 14 * 14, 7 * 7 + 1), widths, strict=True
        )
    }
    layout["cls_token"] = (1, 1, 512)
    inputs, patch = 3, 4
    for stage, (width, ratio, reduction) in enumerate(
        zip(widths, ratios, reductions, strict=True), start=1
    ):
        layout |= layer(f"patch_embed{stage}.proj", width, inputs, patch, patch)
        layout |= layer(f"patch_embed{stage}.norm", width)
        for index in range(2):
            block = f"block{stage}.{index}"
            layout |= layer(f"{block}.norm1", width) | layer(f"{block}.attn.q", width, width)
            layout |= layer(f"{block}.attn.kv", 2 * width, width)
            layout |= layer(f"{block}.attn.proj", width, width)
            if reduction > 1:
                layout |= layer(f"{block}.attn.sr", width, width, reduction, reduction)
                layout |= layer(f"{block}.attn.norm", width)
            layout |= layer(f"{block}.norm2", width)
            layout |= layer(f"{block}.mlp.fc1", ratio * width, width)
            layout |= layer(f"{block}.mlp.fc2", width, ratio * width)
        inputs, patch = width, 2
    return {**layout, **layer("norm", 512), **layer("head", classes, 512)}


def mixer_s16(classes=1000):
    """Returns the layout of timm's mixer_s16_224."""
    layout = layer("stem.proj", 512, 3, 16, 16)
    for index in range(8):
        block = f"blocks.{index}"
        layout |= layer(f"{block}.norm1", 512)
        layout |= layer(f"{block}.mlp_tokens.fc1", 256, 196)
        layout |= layer(f"{block}.mlp_tokens.fc2", 196, 256)
        layout |= layer(f"{block}.norm2", 512)
        layout |= layer(f"{block}.mlp_channels.fc1", 2048, 512)
        layout |= layer(f"{block}.mlp_channels.fc2", 512, 2048)
    return {**layout, **layer("norm", 512), **layer("head", classes, 512)}


def gmlp_s16(classes=1000):
    """Returns the layout of timm's gmlp_s16_224."""
    width = 256
    layout = layer("stem.proj", width, 3, 16, 16)
    for index in range(30):
        block, mlp = f"blocks.{index}", f"blocks.{index}.mlp_channels"
        layout |= layer(f"{block}.norm", width) | layer(f"{mlp}.fc1", 6 * width, width)
        layout |= layer(f"{mlp}.gate.norm", 3 * width) | layer(f"{mlp}.gate.proj", 196, 196)
        layout |= layer(f"{mlp}.fc2", width, 3 * width)
    return {**layout, **layer("norm", width), **layer("head", classes, width)}
