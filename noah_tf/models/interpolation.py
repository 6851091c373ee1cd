"""Interpolates maps as the reference implementation does."""

import numpy as np


def interpolate(values: np.ndarray, grid: tuple[int, int], method: str | None) -> np.ndarray:
    """Resizes a map as PyTorch's `interpolate(align_corners=False)` does.

    Args:
        values: array (H, W, C).
        grid: the new (height, width).
        method: "bilinear" or "bicubic".

    Returns:
        Array (*grid, C).
    """
    rows, columns = (
        _interpolation_matrix(size, new_size, method)
        for size, new_size in zip(values.shape[:2], grid, strict=True)
    )
    return np.einsum("yh,xw,hwc->yxc", rows, columns, values, optimize=True)


def _interpolation_matrix(size: int, new_size: int, method: str | None) -> np.ndarray:
    """Returns the matrix (new_size, size) that interpolates along one axis."""
    centers = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    taps = np.floor(centers)[:, None] + np.arange(-1, 3)
    x = np.abs(centers[:, None] - taps)
    if method == "bilinear":
        weights = np.maximum(1 - x, 0)
    else:
        a = -0.75  # The value of PyTorch's cubic kernel. Keras's has -0.5.
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    matrix = np.zeros((new_size, size))
    # Taps outside the map read the nearest value at its edge.
    nearest = np.clip(taps, 0, size - 1).astype(int)
    np.add.at(matrix, (np.arange(new_size)[:, None], nearest), weights)
    return matrix
