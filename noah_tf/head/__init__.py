"""The head: the Keras layer, its mathematics (POCA), its gradients and its inference form."""

from noah_tf.head.channel_split import divides, key_value_channels
from noah_tf.head.dropout import Dropout, SeedRecord
from noah_tf.head.inference import InferenceHead, precomputed_head
from noah_tf.head.initializers import REFERENCE_CLASSES, get_kernel_initializer
from noah_tf.head.layer import NOAHHead
from noah_tf.head.poca import logits_dtype

__all__ = [
    "REFERENCE_CLASSES",
    "Dropout",
    "InferenceHead",
    "NOAHHead",
    "SeedRecord",
    "divides",
    "get_kernel_initializer",
    "key_value_channels",
    "logits_dtype",
    "precomputed_head",
]
