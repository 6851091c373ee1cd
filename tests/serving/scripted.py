"""A REST server that gives prepared answers, to see what a client makes of them."""

import contextlib
import http.server
import json
import threading
import time


class Scripted:
    """What a server does: answers, in turn; the last one is repeated.

    An answer is a triple: status, body (bytes, or what becomes JSON), seconds to wait before it; or
    None, to close the connection without one.
    """

    def __init__(self, answers):
        self.answers, self.requests = answers, []

    def next(self, method, path, body):
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append((method, path, body, time.monotonic()))
        return answer


@contextlib.contextmanager
def scripted_server(*answers, port=0):
    """Yields the server's url and its `Scripted`."""
    script = Scripted(answers)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer = script.next(self.command, self.path, body)
            if answer is None:
                self.close_connection = True
                return
            status, content, wait = (*answer, 0)[:3]
            time.sleep(wait)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in (answer[3] if len(answer) > 3 else {}).items():
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
        yield f"http://127.0.0.1:{server.server_address[1]}", script
    finally:
        server.shutdown()
        server.server_close()


def available(version="1"):
    """TF Serving's status of a model that is ready."""
    status = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": version, "state": "AVAILABLE", "status": status}]}
