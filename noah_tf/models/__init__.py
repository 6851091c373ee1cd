"""Models: the head on a backbone, the architectures of the paper, the authors' checkpoints."""

from noah_tf.models.attach import attach_noah, feature_layer_name
from noah_tf.models.feature_map import (
    Node,
    is_functional,
    layer_before,
    nodes_in_order,
    num_positions,
    takes_images,
    weighted_layers,
)
from noah_tf.models.inference import for_inference
from noah_tf.models.keras_file import (
    load_keras_file,
    model_from_json,
    sha256_of,
    with_input_shape,
)
from noah_tf.models.official import load_official_weights, save_official_weights
from noah_tf.models.official_download import OFFICIAL, official_file
from noah_tf.models.output_activation import final_activation, without_final_activation
from noah_tf.models.paper_table import ARCHITECTURES
from noah_tf.models.pooled_classifier import check_pooled_options
from noah_tf.models.precision import in_precision
from noah_tf.models.zoo import (
    ABLATIONS,
    check_weights_options,
    create_model,
    list_models,
    load_weights_file,
    preprocessing_for,
)

__all__ = [
    "ABLATIONS",
    "ARCHITECTURES",
    "OFFICIAL",
    "Node",
    "attach_noah",
    "check_pooled_options",
    "check_weights_options",
    "create_model",
    "feature_layer_name",
    "final_activation",
    "for_inference",
    "in_precision",
    "is_functional",
    "layer_before",
    "list_models",
    "load_keras_file",
    "load_official_weights",
    "load_weights_file",
    "model_from_json",
    "nodes_in_order",
    "num_positions",
    "official_file",
    "preprocessing_for",
    "save_official_weights",
    "sha256_of",
    "takes_images",
    "weighted_layers",
    "with_input_shape",
    "without_final_activation",
]
