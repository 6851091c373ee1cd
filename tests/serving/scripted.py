"""A REST server that gives prepared answers, to see how a client handles them."""

import contextlib
import http.server
import json
import threading

# Answers that are no response.
CLOSE = object()  # closes the connection
HANG = object()  # never answers


class Script:
    """The answers of a server, and the requests that it received.

    Attributes:
        answers: one after another; the last is repeated. Each is `CLOSE`, `HANG`, or a tuple of
            status, body (bytes, or a value that becomes JSON) and, if wanted, a dict of headers.
        requests: (method, path, body) of each request.
        barrier: `threading.Barrier` that every request waits at, or None.
    """

    def __init__(self, answers, barrier=None):
        self.answers, self.requests, self.barrier = answers, [], barrier
        self.ended = threading.Event()
        self._received = threading.Condition()

    def next_answer(self, *request):
        with self._received:
            answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
            self.requests.append(request)
            self._received.notify_all()
        return answer

    def wait_for_requests(self, count, timeout=60):
        """Waits until the server has received `count` requests."""
        with self._received:
            assert self._received.wait_for(lambda: len(self.requests) >= count, timeout)


@contextlib.contextmanager
def scripted_server(*answers, port=0, barrier=None):
    """Yields the server's url and its `Script`."""
    script = Script(answers, barrier)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = script.next_answer(self.command, self.path, body)
            if script.barrier is not None:
                script.barrier.wait(timeout=60)
            if answer is HANG:
                script.ended.wait()
            if answer in (HANG, CLOSE):
                self.close_connection = True
                return
            status, content, *headers = answer
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in dict(*headers).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)
                self.wfile.flush()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", script
    finally:
        script.ended.set()
        server.shutdown()
        server.server_close()


def available(version="1"):
    """Returns TF Serving's status of a model that is ready."""
    status = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": version, "state": "AVAILABLE", "status": status}]}
