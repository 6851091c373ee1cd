"""The subcommand `rollout`, which moves a label of a running server to another version."""

import argparse
import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
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

# TF Serving tries six times, a minute apart, to load a version, and then says why it failed.
_WAIT = 420.0  # seconds


def add_parser(subparsers: Any) -> None:
    """Adds the subcommand to the command line."""
    parser = subparsers.add_parser(
        "rollout",
        help="move a label to another version",
        description="Edits the models.config of running servers: adds the version, waits until it "
        "is AVAILABLE, and moves the label to it. Every server is asked after each edit. A call "
        "that was stopped is finished by a second one.",
    )
    add_connection_options(parser, several=True)
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="the server's models.config"
    )
    parser.add_argument("--version", required=True, type=positive_int, help="version to roll out")
    parser.add_argument("--label", required=True, help="label to move, such as canary or stable")
    parser.add_argument(
        "--wait",
        type=nonnegative_seconds,
        default=_WAIT,
        help="seconds to wait for the servers after each edit (%(default)g)",
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
        ValueError: a server would refuse an edit.
        ServingError: a server did not apply an edit in time, or cannot load the version.
        OSError: the file cannot be read or written.
    """
    rollout = Rollout(
        ModelsConfig(options.config, options.model),
        options.version,
        options.label,
        [functools.partial(client_from_options, options, 0, url=url) for url in options.url],
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
    """Moves a label from one version to another, on all servers that read one configuration.

    A file `models.config.rollouts.json` beside the configuration remembers where the label was.

    Args:
        config: the model's entry in the servers' configuration.
        version: number of the version.
        label: the label.
        servers: for each server a function that returns a `Client` of the model there for the
            keyword argument `version` or `label`, or without one.
        wait: seconds to wait for the servers after each edit.
        clock: the time to wait by; tests replace it.

    Raises:
        ValueError: the label cannot be part of a url.

    Example:

    >>> replicas = ["http://10.0.0.11:8501", "http://10.0.0.12:8501"]
    >>> servers = [functools.partial(Client, url, "digits") for url in replicas]
    >>> config = ModelsConfig("saved_models/models.config", "digits")
    >>> list(Rollout(config, 2, "stable", servers).forward())[-1]
    'The server answers stable with version 2.'
    """

    def __init__(
        self,
        config: ModelsConfig,
        version: int,
        label: str,
        servers: Sequence[Callable[..., Client]],
        wait: float = _WAIT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._config, self._version, self._label = config, version, check_label(label)
        self._servers, self._wait, self._clock = servers, wait, clock
        self._record_file = config.path.with_name(f"{config.path.name}.rollouts.json")

    def forward(self, drop_old: bool = False) -> Iterator[str]:
        """Adds the version, waits for it, and moves the label to it.

        Args:
            drop_old: whether to remove the version that had the label before.

        Yields:
            One sentence after each step.

        Raises:
            ValueError: a server would refuse an edit; nothing has been changed.
            ServingError: a server did not apply an edit in time, or cannot load the version.
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
        self._check_servers_answer()
        self._save_record(record)
        yield from self._load(self._version)
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
            ServingError: a server did not apply an edit in time, or cannot load the old version.
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
        self._check_servers_answer()
        old = record.old
        if old is not None:
            yield from self._load(old)
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

    def _load(self, version: int) -> Iterator[str]:
        """Adds a version unless the file has it, and waits until the servers have loaded it."""
        with self._clients(version=version) as clients:
            outdated = []
            versions = self._config.read().versions
            if version not in versions:
                # A server repeats the failure of an earlier attempt until it reads the edit.
                outdated = [client for client in clients if client.status().failure]
                line = self._edit(lambda now: now.with_version(version), f"Added version {version}")
                if version > max(versions):
                    line += (
                        " As the newest version it gets all requests without a version or label, "
                        "once it is loaded."
                    )
                yield line

            def is_available(client: Client, timeout: float) -> tuple[bool, str]:
                status = client.status(timeout)
                if not status.failure and client in outdated:
                    outdated.remove(client)
                if status.failure and client not in outdated:
                    raise ServingError(
                        f"{client.url} cannot load version {version} ({status.failure}): "
                        + (
                            "give the command again with --back to undo the rollout."
                            if version == self._version
                            else f"correct the folder of version {version}, and restart the server."
                        ),
                        "not loaded",
                    )
                return status.is_ready, status.description

            self._wait_for(clients, is_available, f"Version {version} is not AVAILABLE")
        yield f"Version {version} is AVAILABLE."

    def _drop(self, version: int) -> Iterator[str]:
        """Removes a version, and waits until the servers have unloaded it."""
        current = self._config.read()
        self._check_unlabeled(current, version)
        if version in current.versions:
            yield self._edit(lambda now: now.without_version(version), f"Removed version {version}")

        def is_unloaded(client: Client, timeout: float) -> tuple[bool, str]:
            status = client.status(timeout)
            return status.is_unloaded, status.description

        with self._clients(version=version) as clients:
            self._wait_for(clients, is_unloaded, f"Version {version} is not known to be unloaded")
        yield f"Version {version} is unloaded."

    def _wait_for_label(self, version: int | None) -> str:
        """Waits until the label leads to a version, or to none."""

        def is_moved(client: Client, _: float) -> tuple[bool, str]:
            # The status of a model ignores the label, its metadata does not.
            try:
                actual = client.metadata()["model_spec"]["version"]
            except ServingError as error:
                is_unknown = "version label" in str(error)  # and not, say, a wrong API key
                return is_unknown and version is None, str(error).rstrip(".")
            return actual == str(version), f"it leads to version {actual}"

        with self._clients(label=self._label) as clients:
            self._wait_for(clients, is_moved, f"{self._label} has not moved")
        if version is None:
            return f"The server has no label {self._label}."
        return f"The server answers {self._label} with version {version}."

    @contextlib.contextmanager
    def _clients(self, **asked: Any) -> Iterator[list[Client]]:
        """Yields a client of each server, for a version or a label."""
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(connect(**asked)) for connect in self._servers]

    def _wait_for(
        self,
        clients: Sequence[Client],
        check: Callable[[Client, float], tuple[bool, str]],
        problem: str,
    ) -> None:
        """Waits until a check is true of every server, because the next edit needs that."""
        remaining = list(clients)

        def check_remaining(timeout: float) -> tuple[bool, str]:
            states = []
            for client in tuple(remaining):
                done, state = check(client, timeout)
                if done:
                    remaining.remove(client)
                else:
                    states.append(f"{client.url}: {state}")
            return not remaining, "; ".join(states)

        done, state, elapsed = self._clock.wait_for(check_remaining, self._wait)
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

    def _check_servers_answer(self) -> None:
        """Raises `ServingError` unless every server has loaded a version of the model."""
        with self._clients() as clients:
            for client in clients:
                status = client.status()
                if not status.is_ready:
                    raise ServingError(
                        f"{self._config.model} at {client.url} is not served, and nothing was "
                        f"changed: {status.description}.",
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
