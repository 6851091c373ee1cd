"""A NumPy reference of the head, and Python processes for tests."""

import os
import subprocess
import sys

import numpy as np
from shared_data import REPOSITORY


def softmax(keys):
    """Returns the softmax over axis 1."""
    weights = np.exp(keys - keys.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def reference(features, weights, key_ratio=0.5, split_key_value=True):
    """Computes NOAH in float64 NumPy, one group and class at a time, from the paper's equations.

    Args:
        features: (B, L, C).
        weights: key_kernel, key_bias, value_kernel and value_bias in the layer's layout.

    Returns:
        Logits (B, M), attention (B, L, N, M).
    """
    features = np.asarray(features, np.float64)
    key_kernel, key_bias, value_kernel, value_bias = (np.asarray(w, np.float64) for w in weights)
    groups, classes = value_bias.shape
    keys = values = features
    if split_key_value:
        key_channels = int(features.shape[-1] * key_ratio)
        keys, values = features[..., :key_channels], features[..., key_channels:]

    def project(part, kernel, bias, group, label):
        blocks, channels, _ = kernel.shape
        if blocks == 1:
            return part @ kernel[0, :, group * classes + label] + bias[group, label]
        own = part[..., group * channels : (group + 1) * channels]
        return own @ kernel[group, :, label] + bias[group, label]

    logits = np.zeros((len(features), classes))
    attention = np.zeros((*features.shape[:2], groups, classes))
    for group in range(groups):
        for label in range(classes):
            weight = softmax(project(keys, key_kernel, key_bias, group, label))
            value = project(values, value_kernel, value_bias, group, label)
            attention[:, :, group, label] = weight
            logits[:, label] += (weight * value).sum(axis=1)
    return logits, attention


def child_environment(**environment):
    """Returns the environment of a new Python process that can import the package."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path, **environment}


def run_python(code, *arguments, timeout=300, **environment):
    """Runs code in a new Python process that can import the package. Returns the process."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=child_environment(**{"CUDA_VISIBLE_DEVICES": "-1", **environment}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
