"""TF Serving's model server for tests: the real one, or a stand-in where there is none.

    with model_server(folder, "flowers") as server:
        server.kind             # "tensorflow_model_server" or "stand-in"
        server.rest, server.grpc  # urls; grpc is None where tensorflow-serving-api is missing
        server.configure(versions=[1, 2], labels={"stable": 1, "canary": 2})

Where the program `tensorflow_model_server` is on the PATH, it is started. Where it is not, a server
in this process loads the SavedModels into a `tf.compat.v1.Session` each, so that their graphs alone
are run, by TensorFlow's C++ runtime and no Python code of the model, and answers as the pages say:

- "RESTful API", https://www.tensorflow.org/tfx/serving/api_rest: paths, status, metadata, predict,
  {"error": ...}; JSON forms in tf_serving_json.py. gRPC in tf_serving_rpc.py.
- "Tensorflow Serving Configuration", https://www.tensorflow.org/tfx/serving/serving_config: the
  newest version is served unless `specific` ones are; labels go to loaded versions only; the
  folder is polled. A new version is loaded before the old one goes, which waits for its requests.
- "SavedModel Warmup", https://www.tensorflow.org/tfx/serving/saved_model_warmup: the records of
  assets.extra/tf_serving_warmup_requests are replayed before a version is available, and a bad
  record keeps it from loading. It needs tensorflow-serving-api.

The stand-in has no server-side batching, no classify or regress, and no time limits.
"""

import contextlib
import http.server
import json
import pathlib
import re
import shutil
import threading
import time

import tensorflow as tf
from google.protobuf import json_format
from tf_serving_json import BadRequest, NotFound, answer_to_json, request_from_json
from tf_serving_real import RealServer

try:
    import tensorflow_serving.apis  # noqa: F401

    HAS_RPC = True
except ImportError:
    HAS_RPC = False

DEFAULT_SIGNATURE = "serving_default"
WARM_UP = "assets.extra/tf_serving_warmup_requests"


class LoadedVersion:
    """A SavedModel in a session of its own."""

    def __init__(self, path):
        graph = tf.Graph()
        with graph.as_default():
            self._session = tf.compat.v1.Session(graph=graph)
            meta = tf.compat.v1.saved_model.load(self._session, ["serve"], str(path))
            self.signatures = dict(meta.signature_def)
        self.users = 0
        self.warmed_up = _replay(path / WARM_UP, self)

    def inputs(self, name):
        """Dict input → tf.DType of a signature."""
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise BadRequest(f'Serving signature name: "{name}" not found in signature def')
        return {n: tf.as_dtype(info.dtype) for n, info in self.signatures[name].inputs.items()}

    def run(self, name, values):
        """Runs a signature on dict input → array; returns dict output → array."""
        wanted = set(self.inputs(name))
        if set(values) != wanted:
            raise BadRequest(f"input keys {sorted(values)} do not match signature {sorted(wanted)}")
        signature = self.signatures[name or DEFAULT_SIGNATURE]
        feeds = {signature.inputs[name].name: value for name, value in values.items()}
        fetches = {name: info.name for name, info in signature.outputs.items()}
        try:
            return self._session.run(fetches, feeds)
        except tf.errors.InvalidArgumentError as error:
            # The runtime's own message, before Session.run has added what Python knows.
            plain = error.__context__
            raise BadRequest(getattr(plain, "message", error.message)) from None
        except ValueError as error:  # what Session.run checks before the runtime does
            raise BadRequest(str(error)) from None

    def close(self):
        self._session.close()


def _replay(path, version):
    """Runs a version's warm-up records; how many there were, or None if they cannot be read."""
    if not path.exists():
        return 0
    if not HAS_RPC:
        return None
    from tf_serving_rpc import run_record

    records = [*tf.compat.v1.io.tf_record_iterator(str(path))]
    for record in records:
        run_record(record, version)
    return len(records)


class StandIn:
    """Loads, serves and unloads the versions of one model, and polls its folder."""

    kind = "stand-in"

    def __init__(self, base_path, name, versions=None, labels=None, poll_seconds=0.2):
        self.base_path, self.name = pathlib.Path(base_path), name
        self._wanted, self._labels = versions, dict(labels or {})
        self._lock, self._one_poll = threading.Lock(), threading.Lock()
        self._loaded, self._states = {}, {}  # version → model, version → (state, error message)
        self._poll_seconds, self._stop = poll_seconds, threading.Event()
        self._servers = contextlib.ExitStack()

    def configure(self, versions=None, labels=None):
        """Serves other versions (None: the newest) and labels, as a reloaded config file does."""
        with self._lock:
            self._wanted = versions
        self.poll()
        self._set_labels(labels)

    def _set_labels(self, labels):
        with self._lock:
            for label, version in (labels or {}).items():
                if version not in self._loaded:
                    raise ValueError(f"label {label}: version {version} is not available")
            self._labels = dict(labels or {})

    def poll(self):
        """Loads what is new in the folder, then unloads what is no longer wanted."""
        with self._one_poll:
            present = sorted(int(p.name) for p in self.base_path.glob("*") if p.name.isdigit())
            with self._lock:
                wanted = self._wanted
            wanted = present[-1:] if wanted is None else [v for v in wanted if v in present]
            for version in wanted:
                if version not in self._states or self._states[version] == ("END", ""):
                    self._load(version)
            with self._lock:
                # Old versions stay until one that is wanted can answer.
                ready = not wanted or any(version in self._loaded for version in wanted)
                gone = [v for v in self._loaded if v not in wanted] if ready else []
                old = [(version, self._loaded.pop(version)) for version in gone]
                self._labels = {k: v for k, v in self._labels.items() if v in self._loaded}
                self._states.update(dict.fromkeys(gone, ("UNLOADING", "")))
            for version, model in old:
                while model.users:
                    time.sleep(0.005)
                model.close()
                self._states[version] = ("END", "")

    def _load(self, version):
        self._states[version] = ("LOADING", "")
        try:
            model = LoadedVersion(self.base_path / str(version))
        except Exception as error:  # as the real server: the version ends, and it says why
            self._states[version] = ("END", f"{type(error).__name__}: {error}")
            return
        with self._lock:
            self._loaded[version] = model
            self._states[version] = ("AVAILABLE", "")

    @contextlib.contextmanager
    def version(self, name, version=None, label=None):
        """The number and `LoadedVersion` that a request is for; it stays while it is used."""
        with self._lock:
            if name == self.name and label is not None:
                if label not in self._labels:
                    raise BadRequest(f"Unrecognized servable version label: {label}")
                version = self._labels[label]
            if name == self.name and version is None and self._loaded:
                version = max(self._loaded)
            model = self._loaded.get(version) if name == self.name else None
            if model is None:
                which = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise NotFound(f"Servable not found for request: {which}")
            model.users += 1
        try:
            yield version, model
        finally:
            with self._lock:
                model.users -= 1

    def status(self, name, version=None, label=None):
        """List of version, state and error message, newest first."""
        with self._lock:
            states = dict(self._states) if name == self.name else {}
            if label is not None:
                if label not in self._labels:
                    raise BadRequest(f"Unrecognized servable version label: {label}")
                version = self._labels[label]
        if version is not None:
            states = {v: state for v, state in states.items() if v == version}
        if not states:
            which = "" if version is None else f" with version {version}"
            raise NotFound(f"Could not find any versions of model {name}{which}")
        return [(v, state, error) for v, (state, error) in sorted(states.items(), reverse=True)]

    @property
    def warmed_up(self):
        """Dict loaded version → how many warm-up records were replayed."""
        with self._lock:
            return {version: model.warmed_up for version, model in self._loaded.items()}

    def start(self):
        labels = self._labels
        self.poll()
        self._set_labels(labels)
        server = _HttpServer(("127.0.0.1", 0), _Handler)
        server.models = self
        self._start(server.serve_forever, 0.05)
        self._servers.callback(server.server_close)
        self._servers.callback(server.shutdown)
        self.rest, self.grpc = f"http://127.0.0.1:{server.server_address[1]}", None
        if HAS_RPC:
            from tf_serving_rpc import start

            rpc, port = start(self)
            self._servers.callback(lambda: rpc.stop(grace=1).wait())
            self.grpc = f"grpc://127.0.0.1:{port}"
        self._poller = self._start(self._keep_polling)

    def _start(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        thread.start()
        return thread

    def _keep_polling(self):
        while not self._stop.wait(self._poll_seconds):
            self.poll()

    def stop(self):
        self._stop.set()
        self._poller.join()
        self._servers.close()
        for model in self._loaded.values():
            model.close()
        self._loaded = {}


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(http.server.BaseHTTPRequestHandler):
    """The REST interface."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together
    _MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"

    def do_GET(self):
        self._answer(self._MODEL + "(/metadata)?", self._get)

    def do_POST(self):
        self._answer(self._MODEL + ":(predict)", self._predict)

    def _answer(self, path, function):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            match = re.fullmatch(path, self.path)
            if match is None:
                raise BadRequest(f"Malformed request: {self.command} {self.path}")
            name, version, label, verb = match.groups()
            which = {"version": version and int(version), "label": label}
            status, text = 200, function(name, which, verb, body)
        except BadRequest as error:
            status, text = 400, json.dumps({"error": str(error)})
        except NotFound as error:
            status, text = 404, json.dumps({"error": str(error)})
        except Exception as error:
            status, text = 500, json.dumps({"error": f"{type(error).__name__}: {error}"})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _get(self, name, which, metadata, _):
        models = self.server.models
        if not metadata:
            statuses = models.status(name, **which)
            return json.dumps({"model_version_status": [_status(*status) for status in statuses]})
        with models.version(name, **which) as (version, model):
            signatures = {
                key: json_format.MessageToDict(signature, preserving_proto_field_name=True)
                for key, signature in model.signatures.items()
            }
        spec = {"name": name, "signature_name": "", "version": str(version)}
        definition = {"signature_def": {"signature_def": signatures}}
        return json.dumps({"model_spec": spec, "metadata": definition})

    def _predict(self, name, which, _, body):
        with self.server.models.version(name, **which) as (_, model):
            signature, values, rows = request_from_json(body, model.inputs)
            return answer_to_json(model.run(signature, values), rows)

    def log_message(self, *_):
        pass


def _status(version, state, error):
    status = {"error_code": "UNKNOWN" if error else "OK", "error_message": error}
    return {"version": str(version), "state": state, "status": status}


@contextlib.contextmanager
def model_server(base_path, name, versions=None, labels=None, poll_seconds=0.2):
    """Serves a model while the block runs.

    Args:
        base_path: folder of the model's versions.
        name: name to serve it under.
        versions: the versions to serve; None for the newest.
        labels: dict label → version.
        poll_seconds: how often the folder is looked at; the real server takes whole seconds.

    Yields:
        A `StandIn` or a `RealServer`: `kind`, `rest`, `grpc`, `configure`.
    """
    real = shutil.which(RealServer.kind) is not None
    server = (RealServer if real else StandIn)(base_path, name, versions, labels, poll_seconds)
    server.start()
    try:
        yield server
    finally:
        server.stop()
