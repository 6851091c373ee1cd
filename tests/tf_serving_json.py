"""TF Serving's documented rules for tensors in JSON, for the stand-in of tf_serving_stand_in.py.

The rules and where they stand: "RESTful API", https://www.tensorflow.org/tfx/serving/api_rest
(tensorflow/serving, tensorflow_serving/g3doc/api_rest.md), its sections "Specifying input tensors
in row format", "... in column format", "Response format", "Output of binary values" and "Encoding
binary values". What the page leaves open (which mistakes are noticed, and that rows of a single
input may be named, too) follows tensorflow_serving/util/json_tensor.cc.
"""

import base64
import binascii
import json

import numpy as np

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")


class BadRequest(Exception):
    """What the server answers with 400 and its text."""


class NotFound(Exception):
    """What the server answers with 404 and its text."""


def request_from_json(body, signature_of):
    """Reads a predict request.

    Args:
        body: the bytes.
        signature_of: function of a signature's name (or "") to dict input → tf.DType.

    Returns:
        The signature's name or "", dict input → array, and whether the form is rows.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest(f"JSON Value: {document} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise BadRequest("'signature_name' key must be a string value.")
    inputs = signature_of(name)
    if "instances" in document and "inputs" in document:
        raise BadRequest("expecting only one of 'inputs' or 'instances' keys to exist")
    if "instances" in document:
        return name, _from_rows(document["instances"], inputs), True
    if "inputs" in document:
        return name, _from_columns(document["inputs"], inputs), False
    raise BadRequest("Missing 'inputs' or 'instances' key")


def _from_rows(rows, inputs):
    if not isinstance(rows, list):
        raise BadRequest("Excepting 'instances' to be an list/array")
    if not rows:
        raise BadRequest("No values in 'instances' array")
    named = _is_named(rows[0])
    if not named and len(inputs) > 1:
        raise BadRequest("instances is a plain list, but expecting list of objects")
    columns = {name: [] for name in inputs}
    for index, row in enumerate(rows):
        if _is_named(row) != named:
            wanted, got = ("object", "list") if named else ("value/list", "object")
            raise BadRequest(f"Expecting {wanted} but got {got} at item {index} of input list")
        if not named:
            row = {next(iter(inputs)): row}
        elif set(row) != set(inputs):
            raise BadRequest(
                f"Failed to process element: {index} of 'instances' list. JSON object: keys must "
                f"be equal to: {','.join(sorted(inputs))}"
            )
        for name, value in row.items():
            try:
                array = tensor_from_json(value, inputs[name])
                before = columns[name][0].shape if columns[name] else array.shape
                if array.shape != before:
                    raise BadRequest(f"Expecting shape {[*before]} but got: {[*array.shape]}")
            except BadRequest as error:
                raise BadRequest(
                    f"Failed to process element: {index} key: {name} of 'instances' list. Error: "
                    f"INVALID_ARGUMENT: {error}"
                ) from None
            columns[name].append(array)
    return {name: np.stack(arrays) for name, arrays in columns.items()}


def _from_columns(value, inputs):
    if not _is_named(value):
        if len(inputs) > 1:
            raise BadRequest("inputs is a plain value/list, but expecting an object")
        value = {next(iter(inputs)): value}
    for name in inputs:
        if name not in value:
            raise BadRequest(f"Missing named input: {name} in 'inputs' object.")
    return {name: tensor_from_json(value[name], dtype) for name, dtype in inputs.items()}


def _is_binary(value):
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_named(value):
    return isinstance(value, dict) and not _is_binary(value)


def tensor_from_json(value, dtype):
    """A nested list, number, string or {"b64": ...} as an array."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    flat = []
    _fill(value, 0, shape, dtype, flat)
    array = np.empty(len(flat), object)
    array[:] = flat
    if dtype.name != "string":
        array = array.astype(dtype.as_numpy_dtype)
    return array.reshape(shape)


def _fill(value, level, shape, dtype, flat):
    if not isinstance(value, list):
        if level != len(shape):
            raise BadRequest(
                f"JSON Value: {value} found at incorrect level: {level + 1} in the JSON DOM. "
                f"Expected at level: {len(shape)}"
            )
        flat.append(_leaf(value, dtype.name))
    elif level >= len(shape):
        raise BadRequest(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    elif len(value) != shape[level]:
        raise BadRequest(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: "
            f"{shape[level]}"
        )
    else:
        for inner in value:
            _fill(inner, level + 1, shape, dtype, flat)


def _leaf(value, dtype):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if dtype == "string" and isinstance(value, str):
        return value.encode()
    if dtype == "string" and isinstance(value, dict):
        if not _is_binary(value):
            raise BadRequest(f"JSON Value: {value} not formatted correctly for base64 data")
        try:
            return base64.b64decode(value["b64"], validate=True)
        except binascii.Error:
            raise BadRequest("Unable to base64 decode") from None
    if dtype == "bool" and isinstance(value, bool):
        return value
    if dtype in INTEGERS and number and isinstance(value, int):
        if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            return value
    elif dtype in ("float32", "float64") and number:
        return value
    raise BadRequest(f"JSON Value: {value} is not of expected type: {dtype}")


def answer_to_json(outputs, rows):
    """The text of an answer with dict output → array, in the form of the request."""
    plain = {name: _plain(name, array) for name, array in outputs.items()}
    single = next(iter(plain.values())) if len(plain) == 1 else None
    if not rows:
        return json.dumps({"outputs": plain if single is None else single})
    sizes = {name: array.shape[:1] for name, array in outputs.items()}
    if len(set(sizes.values())) != 1 or () in sizes.values():
        raise BadRequest(f"Tensors have inconsistent batch sizes: {sizes}")
    if single is not None:
        return json.dumps({"predictions": single})
    count = next(iter(sizes.values()))[0]
    predictions = [{name: values[i] for name, values in plain.items()} for i in range(count)]
    return json.dumps({"predictions": predictions})


def _plain(name, array):
    if array.dtype == object and name.endswith("_bytes"):
        encode = np.vectorize(lambda v: {"b64": base64.b64encode(v).decode()}, otypes=[object])
        return encode(array).tolist()
    if array.dtype == object:
        return np.vectorize(lambda v: v.decode(errors="replace"), otypes=[object])(array).tolist()
    return array.tolist()
