"""The names that timm and torchvision give to the tensors of the reference implementation.

The tables below hold the names that differ. The files of timm for DeiT, ViT, Mixer and gMLP, and
those of the official DeiT and PVT repositories, have the reference's names.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class LibraryNames(NamedTuple):
    """How a library names the tensors of one family of architectures.

    Attributes:
        name: the library's name, for error messages. "" for the reference itself.
        names: the library's name of a module or a tensor → the reference's name, for all that
            differ. If two names of the library have one name in the reference, the first is
            today's.
        difference: why the file's tensors fit no model here. "" if they fit.
    """

    name: str
    names: dict[str, str]
    difference: str = ""

    def are_in(self, tensors: Mapping[str, Any]) -> bool:
        """Returns True if one of a file's tensors has one of these names."""
        return any(name in self.names or _module(name) in self.names for name in tensors)

    def to_reference(self, name: str) -> str:
        """Returns the reference's name of a tensor that the library names `name`."""
        return _translate(name, self.names)

    def from_reference(self, name: str) -> str:
        """Returns the library's name of a tensor that the reference names `name`."""
        return _translate(name, {ours: theirs for theirs, ours in reversed(self.names.items())})


_REFERENCE = LibraryNames("", {})


class FileNames(NamedTuple):
    """The names of the tensors in a file.

    Attributes:
        library: the library whose names they are.
        names: the reference's name of each tensor in the file → its name in the file.
    """

    library: LibraryNames
    names: Mapping[str, str]

    def of(self, name: str) -> str:
        """Returns the name that a tensor has, or would have, in the file.

        Args:
            name: the reference's name.
        """
        return self.names.get(name) or self.library.from_reference(name)


def with_reference_names(
    tensors: Mapping[str, Any], libraries: Sequence[LibraryNames], label: str
) -> tuple[dict[str, Any], FileNames]:
    """Renames the tensors of a file as in the reference implementation.

    Args:
        tensors: the file's name → tensor. Unknown names stay as they are.
        libraries: the libraries of the model's family.
        label: the file's name in error messages.

    Returns:
        A dict reference's name → tensor, and the `FileNames`.

    Raises:
        ValueError: the file holds a model that differs from the reference's, or two tensors have
            the same name in the reference.
    """
    library = next((library for library in libraries if library.are_in(tensors)), _REFERENCE)
    if library.difference:
        raise ValueError(f"{label} does not fit the model: {library.difference}.")
    names: dict[str, str] = {}
    for name in tensors:
        other = names.setdefault(library.to_reference(name), name)
        if other != name:
            raise ValueError(f"{label} must have one of {other!r} and {name!r}, got both.")
    return {name: tensors[names[name]] for name in names}, FileNames(library, names)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _translate(name: str, names: Mapping[str, str]) -> str:
    if name in names:
        return names[name]
    module = _module(name)
    return names[module] + name.removeprefix(module) if module in names else name


def _timm_mobilenetv2_names() -> dict[str, str]:
    names = {
        "conv_stem": "features.0.0",
        "bn1": "features.0.1",
        "conv_head": "features.18.0",
        "bn2": "features.18.1",
        "classifier": "head.2",
    }
    number = 1
    for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for index in range(blocks):
            if stage == 0:  # The first block has no expansion.
                theirs, ours = "conv_dw bn1 conv_pw bn2", "0.0 0.1 1 2"
            else:
                theirs, ours = "conv_pw bn1 conv_dw bn2 conv_pwl bn3", "0.0 0.1 1.0 1.1 2 3"
            for their_part, our_part in zip(theirs.split(), ours.split(), strict=True):
                names[f"blocks.{stage}.{index}.{their_part}"] = f"features.{number}.conv.{our_part}"
            number += 1
    return names


def _torchvision_vit_names() -> dict[str, str]:
    names = {
        "class_token": "cls_token",
        "conv_proj": "patch_embed.proj",
        "encoder.pos_embedding": "pos_embed",
        "encoder.ln": "norm",
        "heads.head": "head",
    }
    block = {
        "ln_1": "norm1",
        "self_attention.in_proj_weight": "attn.qkv.weight",
        "self_attention.in_proj_bias": "attn.qkv.bias",
        "self_attention.out_proj": "attn.proj",
        "ln_2": "norm2",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
        # The names in older versions of torchvision.
        "mlp.linear_1": "mlp.fc1",
        "mlp.linear_2": "mlp.fc2",
    }
    for index in range(24):  # The blocks of ViT-Large.
        for theirs, ours in block.items():
            names[f"encoder.layers.encoder_layer_{index}.{theirs}"] = f"blocks.{index}.{ours}"
    return names


_MOBILENETV3_DIFFERENCE = (
    "the MobileNetV3 of {} has squeeze layers with biases and other widths, and a first block "
    "without expansion, so not even its features fit"
)

RESNET = (LibraryNames("torchvision and timm", {"fc": "head.2"}),)
SHUFFLENETV2 = (LibraryNames("torchvision", {"fc": "head.2"}),)
MOBILENETV2 = (
    LibraryNames("timm", _timm_mobilenetv2_names()),
    LibraryNames("torchvision", {"classifier.1": "head.2"}),
)
MOBILENETV3 = (
    LibraryNames("timm", {"conv_stem": "features.0.0"}, _MOBILENETV3_DIFFERENCE.format("timm")),
    LibraryNames(
        "torchvision",
        {"features.1.block.0.0": "features.1.conv.3"},
        _MOBILENETV3_DIFFERENCE.format("torchvision"),
    ),
)
DEIT = (
    LibraryNames("torchvision", _torchvision_vit_names()),
    LibraryNames(
        "timm",
        {"dist_token": "dist_token"},
        "a distilled DeiT has a second class token and a second head",
    ),
)
