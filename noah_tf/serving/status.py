"""The state of a model on a server, which clients wait for."""

import dataclasses
from collections.abc import Iterable

from noah_tf.serving.errors import readable_message


@dataclasses.dataclass(frozen=True)
class ModelStatus:
    """A server's answer to the question for the state of a model, or of one version.

    A server that does not answer, or that refuses to, is neither ready nor known to have unloaded
    the model.

    Attributes:
        is_ready: True if the model can be asked.
        description: the states of its versions in words, or why the server did not tell them.
        is_unloaded: True if the server itself says that it has no such version, or that all of them
            have ended.
        failure: the server's reason if it gave up loading the versions, else "".
    """

    is_ready: bool
    description: str
    is_unloaded: bool = False
    failure: str = ""


def status_of(versions: Iterable[tuple[int | str, str, str]]) -> ModelStatus:
    """Returns the status that the states of a model's versions make.

    Args:
        versions: (version, name of its state, error message or "") for each version on the server.

    Example:

    >>> status_of([(2, "END", "the warm-up failed"), (1, "AVAILABLE", "")]).description
    'version 2 is END (the warm-up failed), version 1 is AVAILABLE'
    """
    versions = [(version, state, readable_message(error)) for version, state, error in versions]
    states = [
        f"version {version} is {state}" + (f" ({error})" if error else "")
        for version, state, error in versions
    ]
    has_ended = bool(versions) and all(state == "END" for _, state, _ in versions)
    return ModelStatus(
        any(state == "AVAILABLE" for _, state, _ in versions),
        ", ".join(states) or "the server has no version of it",
        has_ended,
        ", ".join(error for *_, error in versions if error) if has_ended else "",
    )


def status_without_versions(description: str, message: str, is_not_found: bool) -> ModelStatus:
    """Returns the status for an answer that has no states.

    Args:
        description: the answer in words.
        message: the server's message.
        is_not_found: True if its code is HTTP 404 or NOT_FOUND.
    """
    # A front, or a server of something else, answers 404 to paths that it does not know.
    return ModelStatus(False, description, is_not_found and "Could not find" in message)
