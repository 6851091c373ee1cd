"""Which architectures of the zoo the ordinary tests build; the tests of the others are slow.

It is not in conftest.py, for the reason in shared_data.py.
"""

import pytest

# One convolutional network and one transformer, with either head.
QUICK = ("resnet18", "deit_tiny_050_patch16_224")


def is_quick(name):
    return name.removeprefix("noah_").partition("__")[0] in QUICK


def by_architecture(names, mark):
    """Returns the names as parameters, and those of the other architectures with the mark."""
    return [pytest.param(name, marks=[] if is_quick(name) else [mark]) for name in names]
