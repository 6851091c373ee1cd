"""Images: decode, resize, crop, normalize and augment, defined once for every use."""

from noah_tf.images.augmentation import Augmentation
from noah_tf.images.ops import decode, resize
from noah_tf.images.pil_ops import to_uint8
from noah_tf.images.preprocessing import Preprocessing
from noah_tf.images.train_transform import TrainTransform

__all__ = [
    "Augmentation",
    "Preprocessing",
    "TrainTransform",
    "decode",
    "resize",
    "to_uint8",
]
