"""The gRPC interface of the stand-in; see tf_serving_stand_in.py.

Messages and services are TF Serving's own, tensorflow_serving/apis/*.proto. The codes of errors are
those that its REST interface turns into 400 and 404.
"""

import concurrent.futures
import contextlib

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tf_serving_json import BadRequest, NotFound


def start(models):
    """Starts a server for a `StandIn`; returns it and its port."""
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(max_workers=32),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _Predictions(models), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Models(models), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def run_record(record, version):
    """Runs a warm-up record, a serialised PredictionLog, on a `LoadedVersion`."""
    log = prediction_log_pb2.PredictionLog.FromString(record)
    if log.WhichOneof("log_type") != "predict_log":
        raise BadRequest(f"the stand-in replays predict_log records, got {log}")
    return _predict(log.predict_log.request, version)


def _predict(request, model):
    values = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
    outputs = model.run(request.model_spec.signature_name, values)
    chosen = request.output_filter or outputs
    return {name: outputs[name] for name in chosen}


class _Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models):
        self._models = models

    def Predict(self, request, context):
        with _codes(context), self._models.version(*_which(request)) as (version, model):
            answer = predict_pb2.PredictResponse(model_spec=_spec(request, version))
            for name, array in _predict(request, model).items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(array))
            return answer

    def GetModelMetadata(self, request, context):
        with _codes(context), self._models.version(*_which(request)) as (version, model):
            answer = get_model_metadata_pb2.GetModelMetadataResponse(
                model_spec=_spec(request, version)
            )
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in model.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            answer.metadata["signature_def"].Pack(signatures)
            return answer


class _Models(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models):
        self._models = models

    def GetModelStatus(self, request, context):
        answer = get_model_status_pb2.GetModelStatusResponse()
        with _codes(context):
            for version, state, error in self._models.status(*_which(request)):
                status = answer.model_version_status.add(version=version, state=state)
                status.status.error_code = 2 if error else 0
                status.status.error_message = error
        return answer


def _which(request):
    spec = request.model_spec
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return spec.name, version, spec.version_label if choice == "version_label" else None


def _spec(request, version):
    spec = type(request.model_spec)(name=request.model_spec.name)
    spec.version.value = version
    return spec


@contextlib.contextmanager
def _codes(context):
    try:
        yield
    except BadRequest as error:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except NotFound as error:
        context.abort(grpc.StatusCode.NOT_FOUND, str(error))
