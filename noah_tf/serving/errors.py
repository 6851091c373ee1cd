"""What a server's answers that are no predictions become."""

import re

_LONGEST = 500  # characters; TF Serving repeats values of the request


class ServingError(RuntimeError):
    """A server did not answer, or its answer is no prediction. Its text is one sentence.

    Attributes:
        kind: a few words to count errors by, such as "HTTP 503" or "connection refused".
        refused: whether the server has judged this request, so that others may still work.
    """

    def __init__(self, message, kind, refused=False):
        super().__init__(message)
        self.kind = kind
        self.refused = refused


def server_message(text):
    """A server's message without the names of graph nodes, on one line, of readable length."""
    text = re.sub(r"\{\{function_node [^}]*\}\}", " ", text)
    text = re.sub(r"[A-Za-z0-9+/=]{80,}", "...", text)  # a photo of the request, in base64
    text = " ".join(re.split(r"\[\[", text)[0].split()).rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def model_of(model, version, label):
    """A model in words: its name, and its version or label where one is given."""
    if version is not None:
        return f"{model} (version {version})"
    return model if label is None else f"{model} (label {label})"


def readiness(versions):
    """Whether one of a model's versions can be asked, and what they are at.

    Args:
        versions: list of triples version, state's name, error message or "".
    """
    states = [
        f"version {version} is {state}" + (f" ({server_message(error)})" if error else "")
        for version, state, error in versions
    ]
    ready = any(state == "AVAILABLE" for _, state, _ in versions)
    return ready, ", ".join(states) or "no version is there"
