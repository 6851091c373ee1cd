"""From a TensorFlow function to ONNX, with what tf2onnx leaves open. Needs the extra `onnx`."""

import numpy as np
import tensorflow as tf

from noah_tf.export.tracing import inlined_grouped_convolutions

OPSET = 17


def onnx_model(answer, model):
    """Converts a function, and has ONNX check the outcome.

    Args:
        answer: `tf.function` with an input signature, of batches of any size, to a dict.
        model: the Keras model that the function calls.

    Returns:
        The ONNX model, and a sorted list of the ops that ONNX lacks; if there are any, it cannot
        run.
    """
    import onnx
    import tf2onnx

    with inlined_grouped_convolutions(model):
        function = answer.get_concrete_function()
    model, _ = tf2onnx.convert.from_function(
        answer,
        input_signature=answer.input_signature,
        opset=OPSET,
        # Keras 3 writes GELU with it, and ONNX has erf alone.
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    _hold_constants(model.graph, function)
    missing = {
        node.op_type
        for node in model.graph.node
        if not onnx.defs.has(node.op_type, OPSET, node.domain)
    }
    if not missing:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "batch"
        onnx.checker.check_model(model, full_check=True)
    return model, sorted(missing)


def _hold_constants(graph, function):
    """Gives a graph the tensors that the function reads; tf2onnx makes them inputs."""
    from onnx import numpy_helper

    values = {
        inner.name: tensor.numpy()
        for tensor, inner in function.graph.captures
        if tensor.dtype != tf.resource  # variables, which tf2onnx has taken in
    }
    for value in [value for value in graph.input if value.name in values]:
        graph.input.remove(value)
        graph.initializer.append(numpy_helper.from_array(values[value.name], value.name))


def _erfc(ctx, node, name, args):
    """1 - erf(x)."""
    from tf2onnx import utils

    (x,), (output,) = node.input, node.output
    dtype, shape = ctx.get_dtype(output), ctx.get_shape(output)
    ctx.remove_node(node.name)
    one = ctx.make_const(utils.make_name("one"), np.ones((), np.float32))
    erf = ctx.make_node("Erf", [x])
    return ctx.make_node(
        "Sub", [one.output[0], erf.output[0]], outputs=[output], dtypes=[dtype], shapes=[shape]
    )
