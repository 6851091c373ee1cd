"""Converts a TensorFlow function to ONNX, including the cases that tf2onnx does not handle.

Needs the extra `onnx`.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from noah_tf.export.tracing import inlined_grouped_convolutions

OPSET = 17


def onnx_model(function: Any, model: tf.keras.Model) -> tuple[Any, list[str]]:
    """Converts a function, and checks the result with ONNX's checker.

    Args:
        function: a `tf.function` with an input signature that allows any batch size.
        model: the Keras model that the function calls.

    Returns:
        The ONNX model, and a sorted list of the ops that ONNX lacks. The model is not usable if
        the list is not empty.
    """
    import onnx
    import tf2onnx

    with inlined_grouped_convolutions(model):
        concrete_function = function.get_concrete_function()
    graph_model, _ = tf2onnx.convert.from_function(
        function,
        input_signature=function.input_signature,
        opset=OPSET,
        # Keras 3 writes GELU with erfc, and ONNX has only erf.
        custom_op_handlers={"Erfc": (_convert_erfc, [])},
    )
    _inputs_to_constants(graph_model.graph, concrete_function)
    unsupported_ops = {
        node.op_type
        for node in graph_model.graph.node
        if not onnx.defs.has(node.op_type, OPSET, node.domain)
    }
    if not unsupported_ops:
        for value in (*graph_model.graph.input, *graph_model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.checker.check_model(graph_model, full_check=True)
    return graph_model, sorted(unsupported_ops)


def _inputs_to_constants(graph: Any, concrete_function: Any) -> None:
    """Stores the tensors that the function captures in the graph; tf2onnx makes them inputs."""
    from onnx import numpy_helper

    values = {
        inner.name: tensor.numpy()
        for tensor, inner in concrete_function.graph.captures
        if tensor.dtype != tf.resource  # tf2onnx has already stored the variables.
    }
    for value in [value for value in graph.input if value.name in values]:
        graph.input.remove(value)
        graph.initializer.append(numpy_helper.from_array(values[value.name], value.name))


def _convert_erfc(ctx: Any, node: Any, name: str, args: Any) -> Any:
    """Replaces erfc(x) by 1 - erf(x)."""
    from tf2onnx import utils

    (x,), (output,) = node.input, node.output
    dtype, shape = ctx.get_dtype(output), ctx.get_shape(output)
    ctx.remove_node(node.name)
    one = ctx.make_const(utils.make_name("one"), np.ones((), np.float32))
    erf = ctx.make_node("Erf", [x])
    return ctx.make_node(
        "Sub", [one.output[0], erf.output[0]], outputs=[output], dtypes=[dtype], shapes=[shape]
    )
