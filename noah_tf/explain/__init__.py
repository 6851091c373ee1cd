"""Attention and contribution maps: computed, drawn, and measured against boxes and pixels."""

from noah_tf.explain.explainer import METHOD_TITLES, SIGNED, Explainer
from noah_tf.explain.options import MapOptions
from noah_tf.explain.overlays import attention_grid

__all__ = [
    "Explainer",
    "METHOD_TITLES",
    "MapOptions",
    "SIGNED",
    "attention_grid",
]
