"""The subcommand `rollout`, which moves a label of a running server to another version."""

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

from noah_tf.serving.client import Client
from noah_tf.serving.clock import SYSTEM_CLOCK, Clock
from noah_tf.serving.errors import ServingError
from noah_tf.serving.models_config import ModelsConfig, ServedVersions, check_label
from noah_tf.serving.options import (
    add_connection_options,
    client_from_options,
    nonnegative_seconds,
    positive_int,
)
from noah_tf.utils.files import write_text_atomically


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand to the command line."""
    parser = subparsers.add_parser(
        "rollout",
        help="move a label to another version",
        description="Edits the models.config of a running server: adds the version, waits until it "
        "is AVAILABLE, and moves the label to it. The server is asked after each edit. A call that "
        "was stopped is finished by a second one.",
    )
    add_connection_options(parser)
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="the server's models.config"
    )
    parser.add_argument("--version", required=True, type=positive_int, help="version to roll out")
    parser.add_argument("--label", required=True, help="label to move, such as canary or stable")
    parser.add_argument(
        "--wait",
        type=nonnegative_seconds,
        default=300.0,
        help="seconds to wait for the server after each edit (%(default)g)",
    )
    direction = parser.add_mutually_exclusive_group()
    direction.add_argument(
        "--drop-old", action="store_true", help="remove the version that had the label before"
    )
    direction.add_argument(
        "--back", action="store_true", help="undo the rollout of this version to this label"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Rolls a version out, or back, and prints each step.

    Returns:
        The exit code, 0.

    Raises:
        ValueError: the server would refuse an edit.
        ServingError: the server did not apply an edit in time.
        OSError: the file cannot be read or written.
    """
    rollout = Rollout(
        ModelsConfig(options.config, options.model),
        options.version,
        options.label,
        lambda **asked: client_from_options(options, retries=0, **asked),
        options.wait,
    )
    for line in rollout.back() if options.back else rollout.forward(options.drop_old):
        print(line, flush=True)
    return 0


@dataclasses.dataclass(frozen=True)
class _Record:
    """The changes of a rollout, which a later call needs to go on or to undo it.

    Attributes:
        version: the version that is rolled out.
        old: the version that had the label before, or None if the label is new.
        versions: all versions before.
    """

    version: int
    old: int | None
    versions: tuple[int, ...]


class Rollout:
    """Moves a label of a running server from one version to another.

    A file `models.config.rollouts.json` beside the configuration remembers where the label was.

    Args:
        config: the model's entry in the server's configuration.
        version: number of the version.
        label: the label.
        make_client: function that returns a `Client` of the model for the keyword argument
            `version` or `label`, or without one.
        wait: seconds to wait for the server after each edit.
        clock: the time to wait by; tests replace it.

    Raises:
        ValueError: the label cannot be part of a url.
    """

    def __init__(
        self,
        config: ModelsConfig,
        version: int,
        label: str,
        make_client: Callable[..., Client],
        wait: float = 300.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._config, self._version, self._label = config, version, check_label(label)
        self._make_client, self._wait, self._clock = make_client, wait, clock
        self._record_file = config.path.with_name(f"{config.path.name}.rollouts.json")

    def forward(self, drop_old: bool = False) -> Iterator[str]:
        """Adds the version, waits for it, and moves the label to it.

        Args:
            drop_old: whether to remove the version that had the label before.

        Yields:
            One sentence after each step.

        Raises:
            ValueError: the server would refuse an edit; nothing has been changed.
            ServingError: the server did not apply an edit in time.
        """
        current = self._config.read()
        self._check_version_exists()
        record = self._record()
        if record is None or current.labels.get(self._label) not in (record.old, self._version):
            # There is no rollout to go on with.
            old = current.labels.get(self._label)
            record = _Record(self._version, old, current.versions)
        old = record.old if record.old != self._version else None
        if drop_old and old is not None:
            self._check_unlabeled(current.with_label(self._label, self._version), old)
        self._check_server_answers()
        self._save_record(record)
        if self._version not in current.versions:
            yield self._edit(
                lambda now: now.with_version(self._version), f"Added version {self._version}"
            )
        yield self._wait_until_available(self._version)
        if self._config.read().labels.get(self._label) != self._version:
            yield self._edit(
                lambda now: now.with_label(self._label, self._version),
                f"Moved {self._label} to version {self._version}",
            )
        yield self._wait_for_label(self._version)
        if drop_old and old is not None:
            yield from self._drop(old)

    def back(self) -> Iterator[str]:
        """Moves the label back, and removes the version if the rollout had added it.

        Yields:
            One sentence after each step.

        Raises:
            ValueError: there is no such rollout, or the label was moved since.
            ServingError: the server did not apply an edit in time.
        """
        record, current = self._record(), self._config.read()
        if record is None:
            raise ValueError(
                f"{self._record_file} has no rollout of version {self._version} to "
                f"{self._label}: give --version of the one to return to, without --back."
            )
        if current.labels.get(self._label) not in (record.old, self._version):
            raise ValueError(
                f"{self._label} is at version {current.labels.get(self._label)} now, got "
                f"--version {self._version} --back: undo the later rollout first."
            )
        self._check_server_answers()
        old = record.old
        if old is not None:
            if old not in current.versions:
                yield self._edit(lambda now: now.with_version(old), f"Added version {old}")
            yield self._wait_until_available(old)
        if current.labels.get(self._label) != old:
            yield self._edit(
                lambda now: now.with_label(self._label, old),
                f"Removed {self._label}"
                if old is None
                else f"Moved {self._label} to version {old}",
            )
        yield self._wait_for_label(old)
        if self._version not in record.versions:
            if self._version in self._config.read().labels.values():
                yield f"Version {self._version} stays, because another label is at it."
            else:
                yield from self._drop(self._version)
        self._save_record(None)

    def _edit(self, change: Callable[[ServedVersions], ServedVersions], done: str) -> str:
        # The file is read anew, because another rollout may have edited it while this one waited.
        self._config.write(change(self._config.read()))
        return f"{done} in {self._config.path.name}."

    def _drop(self, version: int) -> Iterator[str]:
        """Removes a version, and waits until the server has unloaded it."""
        current = self._config.read()
        self._check_unlabeled(current, version)
        if version in current.versions:
            yield self._edit(lambda now: now.without_version(version), f"Removed version {version}")
        with self._make_client(version=version) as client:

            def is_gone(timeout: float) -> tuple[bool, str]:
                is_loaded, state = client.readiness(timeout)
                return not is_loaded, state

            self._wait_for(is_gone, f"Version {version} is still loaded")
        yield f"Version {version} is unloaded."

    def _wait_until_available(self, version: int) -> str:
        with self._make_client(version=version) as client:
            self._wait_for(client.readiness, f"Version {version} is not AVAILABLE")
        return f"Version {version} is AVAILABLE."

    def _wait_for_label(self, version: int | None) -> str:
        """Waits until the label leads to a version, or to none."""
        with self._make_client(label=self._label) as client:

            def is_moved(_: float) -> tuple[bool, str]:
                # The status of a model ignores the label, its metadata does not.
                try:
                    actual = client.metadata()["model_spec"]["version"]
                except ServingError as error:
                    return error.refused and version is None, str(error).rstrip(".")
                return actual == str(version), f"it leads to version {actual}"

            self._wait_for(is_moved, f"{self._label} has not moved")
        if version is None:
            return f"The server has no label {self._label}."
        return f"The server answers {self._label} with version {version}."

    def _wait_for(self, check: Callable[[float], tuple[bool, str]], problem: str) -> None:
        done, state, elapsed = self._clock.wait_for(check, self._wait)
        if not done:
            raise ServingError(
                f"{problem} {elapsed:.0f} s after the edit of {self._config.path} ({state}): check "
                "that the server reads this file (--model_config_file_poll_wait_seconds), and give "
                "the command again to go on, or with --back to undo it.",
                "not ready",
            )

    def _check_version_exists(self) -> None:
        folder = self._config.folder()
        if folder is not None and not (folder / str(self._version)).is_dir():
            raise ValueError(
                f"{folder} has no version {self._version}: write it with trainers/export.py."
            )

    def _check_unlabeled(self, current: ServedVersions, version: int) -> None:
        labels = [label for label, number in current.labels.items() if number == version]
        if labels:
            raise ValueError(
                f"Version {version} cannot be removed, because {', '.join(labels)} is at it: move "
                "the label first."
            )

    def _check_server_answers(self) -> None:
        """Raises `ServingError` unless the server has loaded a version of the model."""
        with self._make_client() as client:
            ready, state = client.readiness()
            if not ready:
                raise ServingError(
                    f"{self._config.model} at {client.url} is not served, and nothing was changed: "
                    f"{state}.",
                    "not ready",
                )

    def _records(self) -> dict[str, Any]:
        if not self._record_file.exists():
            return {}
        return json.loads(self._record_file.read_text("utf-8"))

    def _record(self) -> _Record | None:
        """Returns the record of this rollout, or None."""
        record = self._records().get(self._config.model, {}).get(self._label)
        if record is None or record["version"] != self._version:
            return None
        return _Record(record["version"], record["old"], tuple(record["versions"]))

    def _save_record(self, record: _Record | None) -> None:
        records = self._records()
        labels = records.setdefault(self._config.model, {})
        labels.pop(self._label, None)
        if record is not None:
            labels[self._label] = dataclasses.asdict(record)
        write_text_atomically(self._record_file, json.dumps(records, indent=2) + "\n")
