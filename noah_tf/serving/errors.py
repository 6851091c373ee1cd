"""The error of a request to a server, and the server's own messages made readable."""

import re

# Kinds of errors of a busy server, which are counted apart. The first is that of TF Serving's gRPC
# server, the second that of a front such as saved_models/nginx.conf, over REST and over gRPC.
THREADS_EXHAUSTED = "gRPC threads exhausted"
TOO_MANY_REQUESTS = "too many requests"
# The kind of a request that exceeds a limit on the size of messages, over REST and over gRPC.
TOO_LARGE = "request too large"

_MAX_CHARACTERS = 500  # TF Serving repeats values of the request in its messages


class ServingError(RuntimeError):
    """The server did not answer, or did not answer with a prediction. Its text is one sentence.

    Attributes:
        kind: short name that errors are counted by, such as "HTTP 503" or "connection refused".
        refused: True if the server rejected this request, so that other requests may still work.
    """

    def __init__(self, message: str, kind: str, refused: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.refused = refused


def readable_message(text: str) -> str:
    """Returns a server's message on one line, without names of graph nodes and without photos."""
    text = re.sub(r"\{\{function_node [^}]*\}\}", " ", text)
    text = re.sub(r"[A-Za-z0-9+/=]{80,}", "...", text)  # a photo of the request, in base64
    text = " ".join(re.split(r"\[\[", text)[0].split()).rstrip(".")
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]} ..."
