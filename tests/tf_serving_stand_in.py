"""A stand-in for TF Serving's model server, with REST, gRPC, versions, labels and warm-up.

    with StandIn(folder, "flowers", [1, 2], {"stable": 1, "canary": 2}) as server:
        server.rest, server.grpc  # urls
        server.configure([2], {"stable": 2})  # as if its config file had changed
        server.poll()  # notices the versions that were added to the folder or deleted from it
        server.follow(path)  # from now on it is configured by this file
        server.follow(path, every=3)  # which it reads late, before each third answer only

Each version runs in a `tf.compat.v1.Session`: in the C++ runtime, without Python code of the model.
Signatures have one input, as those of noah_tf's exports. The stand-in follows these pages:

- https://www.tensorflow.org/tfx/serving/api_rest: the paths and the JSON.
- https://www.tensorflow.org/tfx/serving/serving_config: the newest version is served unless others
  are configured. A new version is loaded before the old one is unloaded, which waits for its
  requests. A label moves only to a version that is loaded.
- https://www.tensorflow.org/tfx/serving/saved_model_warmup: a version becomes available after its
  warm-up requests were answered, and a bad request keeps it from loading.

It has no server-side batching, no classify or regress, and no limits of time. Over gRPC it answers
`grpc_max_threads` calls at the same time, as the real server does.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import itertools
import json
import pathlib
import re
import threading

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format, text_format

pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")

import grpc
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2 as status_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2 as config_pb2

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


class Refused(Exception):
    """The server refuses a request, with the name of a gRPC status code."""

    def __init__(self, message, code="INVALID_ARGUMENT"):
        super().__init__(message)
        self.code = code


def parse_request(body, signatures):
    """Returns signature, input, array, and whether the JSON of a predict request has rows."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise Refused(f"JSON Parse error: {error}") from None
    signature = document.get("signature_name", "serving_default")
    if signature not in signatures:
        raise Refused(f'Serving signature name: "{signature}" not found in signature def')
    ((name, info),) = signatures[signature].inputs.items()
    has_rows = "instances" in document
    if has_rows == ("inputs" in document):
        raise Refused("expecting one of 'inputs' or 'instances' keys to exist")

    def unnamed(value):
        if not isinstance(value, dict) or set(value) == {"b64"}:
            return value
        if set(value) != {name}:
            raise Refused(f"JSON object: keys must be equal to: {name}")
        return value[name]

    if not has_rows:
        values = unnamed(document["inputs"])
    elif isinstance(document["instances"], list) and document["instances"]:
        values = [unnamed(row) for row in document["instances"]]
    else:
        raise Refused("No values in 'instances' array")
    return signature, name, _parse_array(values, tf.as_dtype(info.dtype)), has_rows


def _parse_array(values, dtype):
    """Returns a nested list of numbers, strings and {"b64": ...} as an array."""

    def parse(value):
        if isinstance(value, list):
            return [parse(each) for each in value]
        if dtype != tf.string:
            return value
        if isinstance(value, dict) and set(value) == {"b64"}:
            return base64.b64decode(value["b64"], validate=True)
        return value.encode()

    try:
        return np.array(parse(values), dtype.as_numpy_dtype)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise Refused(f"JSON Value is not of expected type: {dtype.name}: {error}") from None


def format_response(outputs, has_rows):
    """Returns the JSON of a dict from output to array, in the form of the request."""
    columns = {}
    for name, array in outputs.items():
        if array.dtype == object:
            array = np.vectorize(lambda value: value.decode(errors="replace"), [object])(array)
        columns[name] = array.tolist()
    if not has_rows:
        return json.dumps({"outputs": columns})
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return json.dumps({"predictions": rows})


class LoadedVersion:
    """A SavedModel in a session of its own, after its warm-up."""

    def __init__(self, path):
        graph = tf.Graph()
        with graph.as_default():
            self.session = tf.compat.v1.Session(graph=graph)
            meta_graph = tf.compat.v1.saved_model.load(self.session, ["serve"], str(path))
        self.signatures = dict(meta_graph.signature_def)
        self.num_requests = 0  # under way
        self.num_warmed_up = 0
        if (path / WARMUP_FILE).exists():
            for record in tf.compat.v1.io.tf_record_iterator(str(path / WARMUP_FILE)):
                log = prediction_log_pb2.PredictionLog.FromString(record)
                self.predict(log.predict_log.request)
                self.num_warmed_up += 1

    def predict(self, request):
        """Returns the outputs for a gRPC request, a dict from name to array."""
        signature = request.model_spec.signature_name or "serving_default"
        if signature not in self.signatures:
            message = f'Serving signature key "{signature}" not found.'
            raise Refused(message, "FAILED_PRECONDITION")
        ((name, tensor),) = request.inputs.items()
        return self.run(signature, name, tf.make_ndarray(tensor))

    def run(self, signature, input_name, array):
        """Returns the outputs of a signature, a dict from name to array."""
        definition = self.signatures[signature]
        fetches = {name: info.name for name, info in definition.outputs.items()}
        try:
            return self.session.run(fetches, {definition.inputs[input_name].name: array})
        except tf.errors.InvalidArgumentError as error:
            # The context is the error of the runtime, without what `Session.run` adds to it.
            raise Refused(getattr(error.__context__, "message", error.message)) from None


class StandIn(contextlib.AbstractContextManager):
    """Loads, serves and unloads the versions of one model.

    Args:
        base_path: folder of the model's versions.
        name: name to serve it under.
        versions: list of the versions to serve; None for the newest.
        labels: dict from label to version.
        grpc_max_threads: how many gRPC calls are answered at the same time.
    """

    def __init__(self, base_path, name, versions=None, labels=None, grpc_max_threads=32):
        self.base_path, self.name = pathlib.Path(base_path), name
        self._configured, self._labels = versions, dict(labels or {})
        self._config_file, self.rejected = None, []
        self._changed = threading.Condition()
        self._loaded, self._states = {}, {}  # by version; a state is (name, error message)
        self.poll()
        self._rest_server = _RestServer(("127.0.0.1", 0), _RestHandler)
        self._rest_server.models = self
        self.rest = f"http://127.0.0.1:{self._rest_server.server_port}"
        threading.Thread(target=self._rest_server.serve_forever, args=(0.05,), daemon=True).start()
        self._grpc_server, port = _start_grpc(self, grpc_max_threads)
        self.grpc = f"grpc://127.0.0.1:{port}"

    def configure(self, versions=None, labels=None):
        """Serves other versions and labels.

        Raises:
            ValueError: a label is new, or moves, and its version is not loaded. The real server
                logs this and keeps the whole old configuration, its versions too.
        """
        for label, version in (labels or {}).items():
            if self._labels.get(label) != version and version not in self._loaded:
                raise ValueError(
                    f"Request to assign label to version {version} of model {self.name}, which is "
                    "not currently available for inference"
                )
        self._configured = versions
        self.poll()
        self._labels = dict(labels or {})

    def poll(self):
        """Loads the versions that are wanted, then unloads the others."""
        present = sorted(int(p.name) for p in self.base_path.iterdir() if p.name.isdigit())
        wanted = present[-1:]
        if self._configured is not None:
            wanted = [version for version in self._configured if version in present]
        for version in wanted:
            if self._states.get(version, ("END", "")) != ("END", ""):
                continue
            try:
                self._loaded[version] = LoadedVersion(self.base_path / str(version))
                self._states[version] = ("AVAILABLE", "")
            except Exception as error:  # the version ends, whatever the reason
                self._states[version] = ("END", f"{type(error).__name__}: {error}")
        if wanted and not set(wanted) & set(self._loaded):
            return  # the old versions stay until a new one can answer
        for version in set(self._loaded) - set(wanted):
            with self._changed:
                model = self._loaded.pop(version)
                self._states[version] = ("UNLOADING", "")
                self._changed.wait_for(lambda model=model: not model.num_requests)
            model.session.close()
            self._states[version] = ("END", "")

    def follow(self, path, every=1):
        """Reads a models.config before each answer, or before every third one, and so on.

        An edit that is rejected goes to `rejected`.
        """
        self._config_file, self._config_text = pathlib.Path(path), None
        self._answers, self._every = itertools.count(1), every

    def _reload(self):
        if self._config_file is None or next(self._answers) % self._every:
            return
        if self._config_file.read_text() == self._config_text:
            return
        self._config_text = self._config_file.read_text()
        config = text_format.Parse(self._config_text, config_pb2.ModelServerConfig())
        (entry,) = (e for e in config.model_config_list.config if e.name == self.name)
        versions = list(entry.model_version_policy.specific.versions)
        try:
            self.configure(versions, dict(entry.version_labels))
        except ValueError:
            self.rejected.append(self._config_text)

    def _resolve(self, name, version=None, label=None):
        """Returns the number of the version that a request asks for, or None for the newest."""
        self._reload()
        if name != self.name:
            raise Refused(f"Servable not found for request: Latest({name})", "NOT_FOUND")
        if label is not None and label not in self._labels:
            raise Refused(f"Unrecognized servable version label: {label}")
        return self._labels.get(label, version)

    @contextlib.contextmanager
    def loaded(self, *asked):
        """Yields a version's number and its `LoadedVersion`, which stays loaded for the block."""
        with self._changed:
            version = self._resolve(*asked)
            servable = f"Specific({self.name}, {version})" if version else f"Latest({self.name})"
            version = version or max(self._loaded, default=None)
            if version not in self._loaded:
                raise Refused(f"Servable not found for request: {servable}", "NOT_FOUND")
            model = self._loaded[version]
            model.num_requests += 1
        try:
            yield version, model
        finally:
            with self._changed:
                model.num_requests -= 1
                self._changed.notify_all()

    def predict(self, request, *asked):
        """Returns a `PredictResponse`."""
        response = predict_pb2.PredictResponse()
        with self.loaded(*asked) as (version, model):
            response.model_spec.name, response.model_spec.version.value = self.name, version
            for name, array in model.predict(request).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
        return response

    def metadata(self, _, *asked):
        """Returns a `GetModelMetadataResponse`."""
        response = metadata_pb2.GetModelMetadataResponse()
        with self.loaded(*asked) as (version, model):
            response.model_spec.name, response.model_spec.version.value = self.name, version
            signatures = metadata_pb2.SignatureDefMap(signature_def=model.signatures)
            response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, _, *asked):
        """Returns a `GetModelStatusResponse`, newest version first."""
        response = status_pb2.GetModelStatusResponse()
        asked_version = self._resolve(*asked)
        for version, (state, error) in sorted(self._states.items(), reverse=True):
            if asked_version in (None, version):
                added = response.model_version_status.add(version=version, state=state)
                added.status.error_code, added.status.error_message = 2 if error else 0, error
        if not response.model_version_status:
            raise Refused(f"Could not find any versions of model {self.name}", "NOT_FOUND")
        return response

    def __exit__(self, *_):
        self._rest_server.shutdown()
        self._rest_server.server_close()
        self._grpc_server.stop(grace=1).wait()
        for model in self._loaded.values():
            model.session.close()


class _RestServer(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # connections that wait; the default is 5


class _RestHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # sends headers and body in one piece

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?(/metadata|:predict)?"
        try:
            match = re.fullmatch(path, self.path)
            if match is None or (match[4] == ":predict") != (self.command == "POST"):
                raise Refused(f"Malformed request: {self.command} {self.path}")
            asked = (match[1], match[2] and int(match[2]), match[3])
            status, text = 200, self._answer(self.server.models, asked, match[4], body)
        except Refused as error:
            status = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404}[error.code]
            text = json.dumps({"error": str(error)})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET

    def _answer(self, models, asked, suffix, body):
        if suffix == ":predict":
            with models.loaded(*asked) as (_, model):
                *request, has_rows = parse_request(body, model.signatures)
                return format_response(model.run(*request), has_rows)
        if suffix == "/metadata":
            message = models.metadata(None, *asked)
            return json_format.MessageToJson(message, preserving_proto_field_name=True)
        statuses = []
        for status in models.status(None, *asked).model_version_status:
            error = status.status.error_message
            code = {"error_code": "UNKNOWN" if error else "OK", "error_message": error}
            state = status.State.Name(status.state)
            statuses.append({"version": str(status.version), "state": state, "status": code})
        return json.dumps({"model_version_status": statuses})

    def log_message(self, *_):
        pass


def _start_grpc(models, max_threads):
    """Starts the gRPC interface of a `StandIn`, and returns the server and its port."""
    threads = threading.Semaphore(max_threads)

    def handler(method, request_type):
        def answer(request, context):
            if not threads.acquire(blocking=False):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
            try:
                return answer_in_thread(request, context)
            finally:
                threads.release()

        def answer_in_thread(request, context):
            spec = request.model_spec
            version = spec.version.value if spec.HasField("version") else None
            label = spec.version_label if spec.HasField("version_label") else None
            try:
                return method(request, spec.name, version, label)
            except Refused as error:
                context.abort(grpc.StatusCode[error.code], str(error))

        return grpc.unary_unary_rpc_method_handler(
            answer, request_type.FromString, lambda response: response.SerializeToString()
        )

    predictions = {
        "Predict": handler(models.predict, predict_pb2.PredictRequest),
        "GetModelMetadata": handler(models.metadata, metadata_pb2.GetModelMetadataRequest),
    }
    statuses = {"GetModelStatus": handler(models.status, status_pb2.GetModelStatusRequest)}
    service = grpc.method_handlers_generic_handler
    # The other threads refuse calls.
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(max_threads + 32),
        options=[("grpc.max_receive_message_length", -1)],
    )
    server.add_generic_rpc_handlers([service("tensorflow.serving.PredictionService", predictions)])
    server.add_generic_rpc_handlers([service("tensorflow.serving.ModelService", statuses)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port
