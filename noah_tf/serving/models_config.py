"""The file models.config of a TF Serving, which names the versions and labels that it serves."""

import dataclasses
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from noah_tf.utils.files import save_atomically

# The parts of a text in which braces and names mean nothing: comments and strings.
_OPAQUE = re.compile(r"#[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'")
_LABEL = re.compile(r"[A-Za-z0-9_.-]+")


@dataclasses.dataclass(frozen=True)
class ServedVersions:
    """The versions and labels of a model.

    Attributes:
        versions: the numbers of the versions, in the order of the file.
        labels: dict from label to the number of its version.
    """

    versions: tuple[int, ...]
    labels: Mapping[str, int]

    def with_version(self, version: int) -> "ServedVersions":
        """Returns the same with one more version at the end."""
        return dataclasses.replace(self, versions=(*self.versions, version))

    def without_version(self, version: int) -> "ServedVersions":
        """Returns the same without a version."""
        versions = tuple(other for other in self.versions if other != version)
        return dataclasses.replace(self, versions=versions)

    def with_label(self, label: str, version: int | None) -> "ServedVersions":
        """Returns the same with a label at another version, or without the label for None."""
        labels = {**self.labels, label: version}
        return dataclasses.replace(
            self, labels={name: number for name, number in labels.items() if number is not None}
        )


class ModelsConfig:
    """A model's entry in a file models.config.

    The file is in the text format of protocol buffers. Edits change only the numbers concerned, and
    keep the comments. Each edit is one rename, so that a server never reads half of it.

    Args:
        path: the file.
        model: the model's name in the file.

    Raises:
        ImportError: tensorflow-serving-api, which defines the file's fields, is not installed.
        FileNotFoundError: there is no such file.
        ValueError: the file is no configuration of TF Serving, does not name the model, or leaves
            the choice of its versions to the server.

    Example:

    >>> config = ModelsConfig("saved_models/models.config", "digits")
    >>> config.read()
    ServedVersions(versions=(1,), labels={'stable': 1, 'canary': 1})
    >>> config.write(config.read().with_version(2))
    """

    def __init__(self, path: str | pathlib.PurePath, model: str) -> None:
        # The rename must replace the file and not a link to it.
        self.path, self.model = pathlib.Path(path).resolve(), model
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file {self.path}.")
        self.read()

    def read(self) -> ServedVersions:
        """Returns the versions and labels that the file has now."""
        entry = self._entry(self._parse(self.path.read_text("utf-8")))
        labels = dict(sorted(entry.version_labels.items()))
        return ServedVersions(tuple(entry.model_version_policy.specific.versions), labels)

    def folder(self) -> pathlib.Path | None:
        """Returns the folder of the model's versions beside the file, or None if there is none.

        The base path in the file is that of the server, which may see the folder elsewhere.
        """
        entry = self._entry(self._parse(self.path.read_text("utf-8")))
        folder = self.path.parent / pathlib.PurePosixPath(entry.base_path).name
        return folder if folder.is_dir() else None

    def write(self, wanted: ServedVersions) -> None:
        """Replaces the file by one with other versions and labels, and with the same comments.

        Args:
            wanted: versions and labels, made from the result of `read`.

        Raises:
            ValueError: a new label cannot be part of a url, or the file has a layout that cannot
                be edited.
        """
        text = self.path.read_text("utf-8")
        expected = self._parse(text)
        entry = self._entry(expected)
        current = self.read()
        entry.model_version_policy.specific.versions[:] = wanted.versions
        entry.version_labels.clear()
        entry.version_labels.update(wanted.labels)
        try:
            edited = self._edit(text, current, wanted)
            is_correct = self._parse(edited) == expected
        except (LookupError, ValueError):
            is_correct = False
        if not is_correct:
            raise ValueError(
                f"{self.path} cannot be edited, because its layout is not that of the "
                "saved_models/models.config of noah_tf: write each version as `versions: 1` and "
                'each label as `version_labels { key: "stable" value: 1 }`.'
            )

        def save(partial: str) -> None:
            pathlib.Path(partial).write_text(edited, "utf-8")
            shutil.copymode(self.path, partial)  # the server may run as another user

        save_atomically(save, self.path)

    def _parse(self, text: str) -> Any:
        """Returns the text as a `ModelServerConfig`."""
        text_format, model_server_config_pb2 = _protobuf()
        try:
            return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
        except text_format.ParseError as error:
            raise ValueError(
                f"{self.path} is not a configuration of TF Serving ({error}): correct it."
            ) from error

    def _entry(self, message: Any) -> Any:
        """Returns the model's entry in a `ModelServerConfig`."""
        entries = message.model_config_list.config
        names = [entry.name for entry in entries]
        if self.model not in names:
            raise ValueError(
                f"{self.path} has no model {self.model!r}, got {', '.join(names) or 'none'}."
            )
        entry = entries[names.index(self.model)]
        if not entry.model_version_policy.specific.versions:
            raise ValueError(
                f"The server chooses the versions of {self.model} itself, because {self.path} has "
                "no block model_version_policy { specific { versions: 1 } } for it: add the block."
            )
        return entry

    def _edit(self, text: str, current: ServedVersions, wanted: ServedVersions) -> str:
        """Returns the text with other versions and labels. A part that is missing raises."""
        for version in wanted.versions:
            if version not in current.versions:
                entry = self._block(text)
                last = list(_versions(text, entry))[-1]
                text = _insert_after(text, last, f"versions: {version}")
        for version in current.versions:
            if version not in wanted.versions:
                entry = self._block(text)
                spans = {_number(text, span): span for span in _versions(text, entry)}
                text = _remove(text, spans[version])
        for label in sorted({*current.labels, *wanted.labels}):
            old, new = current.labels.get(label), wanted.labels.get(label)
            if old == new:
                continue
            labels = _labels(text, self._block(text))
            if new is None:
                text = _remove(text, labels[label])
            elif old is None:
                text = self._with_new_label(text, label, new)
            else:
                start, end = labels[label]
                (value,) = re.finditer(r"\bvalue\s*:\s*(\d+)", _masked(text)[start:end])
                text = text[: start + value.start(1)] + str(new) + text[start + value.end(1) :]
        return text

    def _with_new_label(self, text: str, label: str, version: int) -> str:
        """Returns the text with one more label, after the others or after the versions."""
        if not _LABEL.fullmatch(label):
            raise ValueError(f"no label: {label!r}")
        entry = self._block(text)
        places = list(_labels(text, entry).values()) or list(
            _blocks(text, "model_version_policy", entry)
        )
        return _insert_after(
            text, places[-1], f'version_labels {{ key: "{label}" value: {version} }}'
        )

    def _block(self, text: str) -> tuple[int, int]:
        """Returns the span of the model's entry in the text."""
        names = [entry.name for entry in self._parse(text).model_config_list.config]
        (models,) = _blocks(text, "model_config_list", (0, len(text)))
        return list(_blocks(text, "config", models))[names.index(self.model)]


def check_label(label: str) -> str:
    """Returns a label that can be part of a url.

    Raises:
        ValueError: it contains other characters than letters, digits, '_', '-' and '.'.
    """
    if not _LABEL.fullmatch(label):
        raise ValueError(f"A label consists of letters, digits, '_', '-' and '.', got {label!r}.")
    return label


def _protobuf() -> tuple[Any, Any]:
    """Returns the modules that read the file."""
    try:
        from google.protobuf import text_format
        from tensorflow_serving.config import model_server_config_pb2
    except ImportError as error:
        raise ImportError(
            f"Editing models.config needs tensorflow-serving-api ({error}): "
            "pip install 'noah-tf[serving]'."
        ) from error
    return text_format, model_server_config_pb2


def _masked(text: str) -> str:
    """Returns a text of the same length with spaces for comments and strings."""
    return _OPAQUE.sub(lambda match: " " * len(match[0]), text)


def _blocks(text: str, name: str, span: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yields the spans of the blocks `name { ... }` inside a span, without those inside others."""
    masked = _masked(text)
    pattern = re.compile(rf"\b{name}\s*:?\s*{{")
    start = span[0]
    while match := pattern.search(masked, start, span[1]):
        # The match may begin at the block that is searched.
        end, depth = match.end(), 1
        while depth:
            depth += {"{": 1, "}": -1}.get(masked[end], 0)
            end += 1
        yield match.start(), end
        start = end


def _versions(text: str, entry: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yields the spans of `versions: 1` in a model's entry."""
    masked = _masked(text)
    for start, end in _blocks(text, "specific", entry):
        for match in re.compile(r"\bversions\s*:\s*\d+").finditer(masked, start, end):
            yield match.span()


def _labels(text: str, entry: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Returns the spans of the blocks `version_labels` in a model's entry, by label."""
    spans = {}
    for start, end in _blocks(text, "version_labels", entry):
        match = re.search(r"\bkey\s*:\s*([\"'])(.*?)\1", text[start:end])
        if match is not None:
            spans[match[2]] = start, end
    return spans


def _number(text: str, span: tuple[int, int]) -> int:
    return int(text[slice(*span)].rpartition(":")[2])


def _line(text: str, span: tuple[int, int]) -> tuple[int, int] | None:
    """Returns the span of the line, without its end, that has only the span and a comment."""
    start = text.rfind("\n", 0, span[0]) + 1
    end = text.find("\n", span[1])
    end = len(text) if end < 0 else end
    is_alone = not text[start : span[0]].strip() and not _masked(text)[span[1] : end].strip(" ,;")
    return (start, end) if is_alone else None


def _insert_after(text: str, span: tuple[int, int], addition: str) -> str:
    """Returns the text with an addition after a span, on a line of its own if the span has one."""
    line = _line(text, span)
    if line is None:
        return f"{text[: span[1]]} {addition}{text[span[1] :]}"
    indentation = text[line[0] : span[0]]
    return f"{text[: line[1]]}\n{indentation}{addition}{text[line[1] :]}"


def _remove(text: str, span: tuple[int, int]) -> str:
    """Returns the text without a span, and without its line if that has nothing else."""
    line = _line(text, span)
    if line is None:
        return text[: span[0]] + text[span[1] :].lstrip(" ,;")
    return text[: line[0]] + text[line[1] + 1 :]
