"""The command `rollout` edits models.config step by step, as a running server allows it."""

import json
import re
import shutil

import pytest
from fake_clock import FakeClock
from photos import encoded, noise
from shared_data import REPOSITORY

pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")

from noah_tf.serving import Client, ServingError
from noah_tf.serving.__main__ import main
from noah_tf.serving.models_config import ModelsConfig, ServedVersions
from noah_tf.serving.rollout import Rollout
from noah_tf.serving.status import ModelStatus, status_of

pytestmark = pytest.mark.one_stack

SHIPPED = (REPOSITORY / "saved_models" / "models.config").read_text()
ADDED = (
    "Added version 2 in models.config. As the newest version it gets all requests without a "
    "version or label, once it is loaded."
)
BEFORE = ServedVersions((1,), {"stable": 1, "canary": 1})


class FakeServer:
    """A server that reads its models.config whenever the rollout waits.

    It loads a version in two steps, and rejects an edit that gives a label to a version that it has
    not loaded, as TF Serving does.

    Attributes:
        clock: the clock of the rollout. Its `sleep` lets the server go on.
        states: dict from version to its state. FAILED stands for END with an error.
        labels: dict from label to version.
        broken: the versions that fail to load.
        refusal: what the server answers instead of a status, or None.
    """

    def __init__(self, config, broken=()):
        self.config, self.broken, self.refusal = config, broken, None
        self.clock = FakeClock()
        sleep = self.clock.sleep

        def sleep_and_poll(seconds):
            sleep(seconds)
            self.poll()

        object.__setattr__(self.clock, "sleep", sleep_and_poll)
        self.served = config.read().versions
        self.states = dict.fromkeys(self.served, "AVAILABLE")
        self.labels = dict(config.read().labels)

    def poll(self):
        wanted = self.config.read()
        for label, version in wanted.labels.items():
            if self.labels.get(label) != version:
                assert self.states.get(version) == "AVAILABLE", "the server rejects the edit"
        self.labels = dict(wanted.labels)
        for version in wanted.versions:
            if version not in self.served:
                self.states[version] = "LOADING"
            elif self.states[version] == "LOADING":
                self.states[version] = "FAILED" if version in self.broken else "AVAILABLE"
        for version in set(self.served) - set(wanted.versions):
            assert version not in wanted.labels.values()
            if self.states[version] != "FAILED":
                self.states[version] = "END"
        self.served = wanted.versions

    def make_client(self, **asked):
        return FakeClient(self, **asked)


class FakeClient:
    url = "http://fake:8501"

    def __init__(self, server, version=None, label=None):
        self._server, self._version, self._label = server, version, label

    def status(self, timeout=0.0):
        if self._server.refusal is not None:
            return ModelStatus(False, self._server.refusal)
        return status_of(
            (version, "END", "bad warm-up") if state == "FAILED" else (version, state, "")
            for version, state in self._server.states.items()
            if self._version in (None, version)
        )

    def metadata(self):
        if self._server.refusal is not None:
            raise ServingError(f"{self._server.refusal}.", "HTTP 401", refused=True)
        if self._label not in self._server.labels:
            raise ServingError("Unrecognized servable version label.", "HTTP 400", refused=True)
        return {"model_spec": {"version": str(self._server.labels[self._label])}}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def config(tmp_path):
    (tmp_path / "models.config").write_text(SHIPPED)
    return ModelsConfig(tmp_path / "models.config", "digits")


def rollout(server, version=2, label="canary", wait=30.0):
    return Rollout(server.config, version, label, [server.make_client], wait, server.clock)


def test_a_version_is_rolled_out_and_back(config):
    server = FakeServer(config)
    assert list(rollout(server).forward()) == [
        ADDED,
        "Version 2 is AVAILABLE.",
        "Moved canary to version 2 in models.config.",
        "The server answers canary with version 2.",
    ]
    assert config.read() == ServedVersions((1, 2), {"stable": 1, "canary": 2})
    # The version is loaded already.
    assert [line.split()[0] for line in rollout(server, label="stable").forward()] == [
        "Version",
        "Moved",
        "The",
    ]
    # A second call changes nothing.
    assert len(list(rollout(server, label="stable").forward())) == 2
    assert list(rollout(server, label="stable").back()) == [
        "Version 1 is AVAILABLE.",
        "Moved stable to version 1 in models.config.",
        "The server answers stable with version 1.",
    ]
    assert list(rollout(server).back())[-2:] == [
        "Removed version 2 in models.config.",
        "Version 2 is unloaded.",
    ]
    assert config.path.read_text() == SHIPPED
    assert server.states == {1: "AVAILABLE", 2: "END"}


def test_a_version_that_another_label_has_stays_when_it_is_rolled_back(config):
    server = FakeServer(config)
    list(rollout(server, label="canary").forward())
    list(rollout(server, label="stable").forward())
    lines = list(rollout(server, label="canary").back())
    assert lines[-1] == "Version 2 stays, because another label is at it."
    assert config.read() == ServedVersions((1, 2), {"stable": 2, "canary": 1})


def test_the_old_version_is_dropped_and_comes_back(config):
    server = FakeServer(config)
    list(rollout(server, label="canary").forward())
    lines = list(rollout(server, label="stable").forward(drop_old=True))
    assert lines[-2:] == ["Removed version 1 in models.config.", "Version 1 is unloaded."]
    assert config.read() == ServedVersions((2,), {"stable": 2, "canary": 2})
    list(rollout(server, label="stable").back())
    assert sorted(config.read().versions) == [1, 2]
    list(rollout(server, label="canary").back())
    assert config.read() == BEFORE


def test_a_new_label_is_added_and_removed(config):
    server = FakeServer(config)
    list(rollout(server, label="next").forward())
    assert config.read().labels == {**BEFORE.labels, "next": 2}
    assert "The server has no label next." in list(rollout(server, label="next").back())
    assert config.path.read_text() == SHIPPED


def stop_after(server, lines, count):
    """Runs a rollout until it has waited or reported `count` times; returns whether it ended."""
    remaining, sleep = [count], server.clock.sleep

    def step(*arguments):
        remaining[0] -= 1
        if remaining[0] < 0:
            raise KeyboardInterrupt
        if arguments:
            sleep(*arguments)

    object.__setattr__(server.clock, "sleep", step)
    try:
        for _ in lines:
            step()
    except KeyboardInterrupt:
        return False
    finally:
        object.__setattr__(server.clock, "sleep", sleep)
    return True


@pytest.mark.parametrize("drop_old", [False, True])
def test_a_rollout_that_was_stopped_anywhere_goes_on(tmp_path, drop_old):
    count, has_ended = 0, False
    while not has_ended:
        (tmp_path / str(count)).mkdir()
        path = tmp_path / str(count) / "models.config"
        path.write_text(SHIPPED.replace('    version_labels { key: "canary" value: 1 }\n', ""))
        server = FakeServer(ModelsConfig(path, "digits"))
        forward = rollout(server, label="stable").forward(drop_old)
        has_ended = stop_after(server, forward, count)
        list(rollout(server, label="stable").forward(drop_old))
        versions = (2,) if drop_old else (1, 2)
        assert server.config.read() == ServedVersions(versions, {"stable": 2})
        stop_after(server, rollout(server, label="stable").back(), count)
        # A rollout that the first call has finished has no record any more.
        if json.loads((path.parent / "models.config.rollouts.json").read_text())["digits"]:
            list(rollout(server, label="stable").back())
        assert server.config.read() == ServedVersions((1,), {"stable": 1})
        count += 1
    assert count >= 8


def test_a_version_that_does_not_load_moves_no_label(config):
    server = FakeServer(config, broken=(2,))
    lines = rollout(server, wait=420.0).forward()
    assert next(lines) == ADDED
    with pytest.raises(
        ServingError,
        match=r"http://fake:8501 cannot load version 2 \(bad warm-up\): .* with --back to undo",
    ):
        next(lines)
    assert server.clock.now() < 2  # the command does not wait for a version that has failed
    assert config.read().labels == BEFORE.labels
    assert list(rollout(server).back())[-1] == "Version 2 is unloaded."
    assert config.path.read_text() == SHIPPED
    # The server still reports the failure when a corrected version 2 is rolled out.
    server.poll()
    assert server.states[2] == "FAILED"
    server.broken = ()
    assert list(rollout(server).forward())[-1] == "The server answers canary with version 2."


def test_a_version_that_stays_loading_ends_the_command_after_the_wait(config):
    server = FakeServer(config)
    server.poll = lambda: None  # it does not read the file
    lines = rollout(server).forward()
    assert next(lines) == ADDED
    with pytest.raises(ServingError, match="2 is not AVAILABLE 30 s .* no version of it.*--back"):
        next(lines)


def run_until(lines, start):
    """Runs a rollout up to the line with a start."""
    assert any(line.startswith(start) for line in lines)


@pytest.mark.parametrize("label", ["stable", "next"])
def test_a_server_that_refuses_to_answer_has_unloaded_and_moved_nothing(config, label):
    server = FakeServer(config)
    list(rollout(server, label=label).forward())
    lines = rollout(server, label=label).back()
    run_until(lines, "Removed next" if label == "next" else "Moved stable")
    server.refusal = "the server answered 401, the request has no valid API key"
    with pytest.raises(ServingError, match=f"{label} has not moved 30 s .*no valid API key"):
        next(lines)
    server.refusal = None
    lines = rollout(server, label=label).back()
    run_until(lines, "Removed version 2")
    server.refusal = "the server answered 503, going down"
    with pytest.raises(ServingError, match="2 is not known to be unloaded 30 s .*503, going down"):
        next(lines)
    server.refusal = None
    assert list(rollout(server, label=label).back())[-1] == "Version 2 is unloaded."
    assert config.path.read_text() == SHIPPED


def test_what_the_server_would_refuse_is_refused_before_any_edit(config, tmp_path):
    server = FakeServer(config)
    with pytest.raises(ValueError, match="A label consists of letters, .*got 'a b'"):
        rollout(server, label="a b")
    with pytest.raises(ValueError, match="Version 1 cannot be removed, because canary is at it"):
        list(rollout(server, label="stable").forward(drop_old=True))
    with pytest.raises(ValueError, match="has no rollout of version 2 to stable"):
        list(rollout(server, label="stable").back())
    (tmp_path / "digits" / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match="digits has no version 2: write it with trainers/export"):
        list(rollout(server).forward())
    shutil.rmtree(tmp_path / "digits")
    server.states = {}
    with pytest.raises(ServingError, match="digits at http://fake:8501 is not served"):
        list(rollout(server).forward())
    assert config.path.read_text() == SHIPPED
    assert not (tmp_path / "models.config.rollouts.json").exists()


def test_a_label_that_was_moved_since_is_not_rolled_back(config):
    server = FakeServer(config)
    list(rollout(server).forward())
    config.write(config.read().with_version(3))
    server.poll(), server.poll()
    config.write(config.read().with_label("canary", 3))
    with pytest.raises(ValueError, match="canary is at version 3 now, got --version 2 --back"):
        list(rollout(server).back())
    # A new rollout of version 2 starts from there.
    list(rollout(server).forward())
    list(rollout(server).back())
    assert config.read().labels["canary"] == 3


def test_replicas_that_read_the_file_at_different_times_follow_each_edit(
    tiny_models, tmp_path, capsys
):
    from tf_serving_stand_in import StandIn

    path = tmp_path / "models.config"
    path.write_text(SHIPPED.replace("digits", "tiny"))
    labels = {"stable": 1, "canary": 1}
    with (
        StandIn(tiny_models, "tiny", [1], labels) as prompt,
        StandIn(tiny_models, "tiny", [1], labels) as late,
    ):
        prompt.follow(path)
        late.follow(path, every=4)
        words = ["rollout", "--config", str(path), "--model", "tiny", "--version", "2"]
        words += ["--url", prompt.rest, "--url", late.rest, "--label", "canary", "--wait", "30"]
        assert main(words) == 0
        for replica in (prompt, late):
            with Client(replica.rest, "tiny", label="canary") as client:
                assert client.metadata()["model_spec"]["version"] == "2"
        assert main([*words, "--back"]) == 0
        for replica in (prompt, late):
            with Client(replica.rest, "tiny", version=2) as client:
                assert client.status().is_unloaded
        assert not prompt.rejected and not late.rejected
    assert capsys.readouterr().out.splitlines()[-1] == "Version 2 is unloaded."


@pytest.mark.parametrize("scheme", ["rest", "grpc"])
def test_the_command_rolls_a_server_out_and_back(tiny_models, tmp_path, scheme, capsys):
    from tf_serving_stand_in import StandIn

    path = tmp_path / "models.config"
    path.write_text(SHIPPED.replace("digits", "tiny"))
    photo = encoded(noise(12, 10), "PNG")
    with StandIn(tiny_models, "tiny", [1], {"stable": 1, "canary": 1}) as server:
        server.follow(path)
        url = getattr(server, scheme)
        words = ["rollout", "--config", path, "--model", "tiny", "--version", 2, "--url", url]
        words = [*map(str, words), "--label", "stable", "--wait", "30"]
        assert main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "The server answers stable with version 2."
        with Client(url, "tiny", label="stable") as client:
            assert "status" in client.predict([photo])[0]  # version 2 is tolerant
        assert main([*words, "--back"]) == 0
        with Client(url, "tiny", label="stable") as client:
            assert "status" not in client.predict([photo])[0]
        assert not server.rejected
    assert path.read_text() == SHIPPED.replace("digits", "tiny")
    assert main([*words, "--back"]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r".* has no rollout of version 2 to stable: .*\n", error)
