"""The inference form of `NOAHHead`: what does not depend on the features is precomputed."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from noah_tf.head import poca
from noah_tf.head.base import HeadLayer, flatten_positions, restore_positions
from noah_tf.head.channel_split import kernel_shapes
from noah_tf.head.layer import NOAHHead
from noah_tf.head.maps import attention_maps
from noah_tf.head.memory_plan import block_outputs
from noah_tf.utils.keras_compat import NO_AUTOCAST, raw_variable
from noah_tf.utils.validation import class_indices


@tf.keras.utils.register_keras_serializable("noah_tf")
class InferenceHead(HeadLayer):
    """A `NOAHHead` that cannot be trained, with the same logits from fewer ops and weights.

    The kernels are stored in the dtype of the matrix products, and the value biases are summed over
    the groups. The key biases are left out, because the softmax cancels them. `precomputed_head`
    makes the layer from a `NOAHHead`.

    Args:
        num_classes, num_groups, key_ratio, split_groups, split_key_value, activation: as for
            `NOAHHead`.
        single_block: whether all outputs are computed at once, as with `implementation="direct"`.
        branches: whether the graph decides at run time to skip the softmax's shift, see
            `poca.keys_are_small`. This is faster in TensorFlow. Other formats are faster without
            the branches, and average values instead of features, see `feature_averages`.
        **kwargs: `name` and `dtype`, as for any Keras layer.

    Input shape:
        (B, H, W, C) or (B, L, C), floating point.

    Output shape:
        (B, num_classes).

    Weights:
        `key_kernel` (G, Ck/G, N·M/G) and `value_kernel` (G, Cv/G, N·M/G) in the compute dtype, with
        G = N if the groups are split and 1 otherwise; `bias` (M,); with `branches` also
        `key_norms` (G,). None of them is trainable.
    """

    def __init__(
        self,
        num_classes: int,
        num_groups: int,
        key_ratio: float,
        split_groups: bool = True,
        split_key_value: bool = True,
        activation: Any = None,
        single_block: bool = False,
        branches: bool = True,
        **kwargs: Any,
    ) -> None:
        kwargs["trainable"] = False
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.num_groups = num_groups
        self.key_ratio = key_ratio
        self.split_groups = split_groups
        self.split_key_value = split_key_value
        self.activation = tf.keras.activations.get(activation)
        self.single_block = single_block
        self.branches = branches

    def build(self, input_shape: Any) -> None:
        """Creates the weights, which are zero until they are assigned."""
        self.channels = self.known_channels(input_shape)
        key_shape, value_shape = kernel_shapes(
            self.channels,
            self.num_classes,
            self.num_groups,
            self.key_ratio if self.split_key_value else None,
            self.split_groups,
        )
        self.key_kernel = self._weight("key_kernel", key_shape, self.compute_dtype)
        self.value_kernel = self._weight("value_kernel", value_shape, self.compute_dtype)
        self.bias = self._weight("bias", (self.num_classes,), self.logits_dtype)
        self.key_norms: Any = None
        if self.branches:
            self.key_norms = self._weight("key_norms", key_shape[:1], "float32")
        self.built = True

    def call(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Returns the class scores (B, num_classes), whatever `training` is."""
        self.check_features(features)
        features = flatten_positions(features)
        outputs = self.key_kernel.shape[-1]
        if not self.single_block:
            batch, positions, _ = features.shape
            itemsize = tf.as_dtype(self.logits_dtype).size
            outputs = block_outputs(batch, positions, outputs, itemsize)
        logits = poca.poca(
            features,
            tf.convert_to_tensor(self.key_kernel),
            tf.convert_to_tensor(self.value_kernel),
            tf.convert_to_tensor(self.bias),
            accumulate_dtype=self.logits_dtype,
            block_outputs=outputs,
            key_norms=None if self.key_norms is None else tf.convert_to_tensor(self.key_norms),
            # Converted models have no branches. In int8, sums of features lose too many digits.
            average_features=self.branches,
        )
        return self.activation(logits)

    def attention(
        self, features: tf.Tensor, classes: Any = None, per_group: bool = False
    ) -> tf.Tensor:
        """Returns the attention maps, see `NOAHHead.attention`."""
        self.check_features(features)
        flat = flatten_positions(tf.cast(features, self.compute_dtype))
        blocks, block_channels, _ = self.key_kernel.shape
        kernel = tf.reshape(
            tf.convert_to_tensor(self.key_kernel), (blocks, block_channels, -1, self.num_classes)
        )
        if classes is not None:
            kernel = tf.gather(kernel, class_indices(classes, self.num_classes), axis=-1)
        keys = flat[..., : blocks * block_channels]
        maps = attention_maps(keys, kernel, self.logits_dtype)
        maps = maps if per_group else tf.reduce_mean(maps, axis=2)
        return restore_positions(maps, features)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make an equal layer."""
        config = super().get_config()
        config.update(
            num_classes=self.num_classes,
            num_groups=self.num_groups,
            key_ratio=self.key_ratio,
            split_groups=self.split_groups,
            split_key_value=self.split_key_value,
            activation=tf.keras.activations.serialize(self.activation),
            single_block=self.single_block,
            branches=self.branches,
        )
        return config

    def _weight(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer="zeros",
            trainable=False,
            **NO_AUTOCAST,
        )


def precomputed_head(head: NOAHHead, branches: bool = True) -> InferenceHead:
    """Returns the inference form of a head. Later changes of the head's weights do not affect it.

    Args:
        head: a `NOAHHead` that has its weights.
        branches: as for `InferenceHead`.

    Raises:
        ValueError: the head has no weights yet.
    """
    head.check_built()
    inference_head = InferenceHead(
        head.num_classes,
        head.num_groups,
        head.key_ratio,
        head.split_groups,
        head.split_key_value,
        head.activation,
        single_block=head.implementation == "direct",
        branches=branches,
        name=head.name,
        dtype=head.dtype_policy,
    )
    key_kernel, value_kernel = (raw_variable(w) for w in (head.key_kernel, head.value_kernel))
    inference_head.build((None, None, head.channels))
    inference_head.key_kernel.assign(tf.cast(key_kernel, head.compute_dtype))
    inference_head.value_kernel.assign(tf.cast(value_kernel, head.compute_dtype))
    bias = tf.cast(raw_variable(head.value_bias), poca.logits_dtype(head.compute_dtype))
    inference_head.bias.assign(tf.reduce_sum(bias, axis=0))
    if branches:
        inference_head.key_norms.assign(poca.largest_norms(key_kernel))
    return inference_head
