"""Dropout that resumes exactly and differs between replicas, on either Keras."""

import tensorflow as tf

from noah_tf.head.poca import fold_in
from noah_tf.utils.keras_compat import add_seed_stream
from noah_tf.utils.validation import check_rate


def next_seed(layer):
    """The next seed of a layer's stream, two integers."""
    stream = layer._seed_stream
    if isinstance(stream, tf.random.Generator):
        return stream.make_seeds()[:, 0]
    # Under a distribution strategy all replicas read one state, and should not drop alike.
    replica = tf.distribute.get_replica_context()
    replica = replica.replica_id_in_sync_group if replica else 0
    return fold_in(tf.cast(stream.next(), tf.int64), replica)


@tf.keras.utils.register_keras_serializable("noah_tf")
class Dropout(tf.keras.layers.Layer):
    """Sets values to zero at random while training, and scales the others up in return.

    Keras's own layer drops the same on all replicas of a MirroredStrategy with Keras 3.

    Args:
        rate: share of zeros, in [0, 1).
        per_example: whether an example is dropped as a whole, which on the branch of a residual
            block is drop path (stochastic depth, arXiv 1603.09382).
        **kwargs: as for any Keras layer.
    """

    def __init__(self, rate, per_example=False, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)
        self.per_example = bool(per_example)
        if self.rate:
            add_seed_stream(self)

    def build(self, input_shape):
        """Has no weights."""
        self.built = True

    def call(self, x, training=None):
        """The values, some of them dropped in training."""
        if not training or not self.rate:
            return x
        shape = tf.shape(x)
        if self.per_example:
            shape = tf.concat([shape[:1], tf.ones_like(shape[1:])], axis=0)
        return tf.nn.experimental.stateless_dropout(
            x, self.rate, next_seed(self), noise_shape=shape
        )

    def compute_output_shape(self, input_shape):
        """The input's."""
        return input_shape

    def get_config(self):
        """The arguments that make an equal layer."""
        return {**super().get_config(), "rate": self.rate, "per_example": self.per_example}
