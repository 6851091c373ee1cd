"""The program `tensorflow_model_server` for the tests, where it is; see tf_serving_stand_in.py."""

import pathlib
import shutil
import subprocess
import tempfile
import time

import requests
from ports import free_ports
from shared_data import REPOSITORY

BATCHING = REPOSITORY / "saved_models" / "batching.config"


class RealServer:
    """The program `tensorflow_model_server`."""

    kind = "tensorflow_model_server"

    def __init__(self, base_path, name, versions=None, labels=None, poll_seconds=1):
        self.base_path, self.name = pathlib.Path(base_path).resolve(), name
        self._folder = pathlib.Path(tempfile.mkdtemp())
        self._poll_seconds, self._first = max(1, round(poll_seconds)), (versions, labels)

    def configure(self, versions=None, labels=None):
        """Writes the config file, which the server polls."""
        policy = " ".join(f"versions: {version}" for version in versions or ())
        policy = f"model_version_policy {{ specific {{ {policy} }} }}" if versions else ""
        labels = "".join(
            f' version_labels {{ key: "{k}" value: {v} }}' for k, v in (labels or {}).items()
        )
        text = (
            f'model_config_list {{ config {{ name: "{self.name}" base_path: "{self.base_path}" '
            f'model_platform: "tensorflow" {policy}{labels} }} }}\n'
        )
        (self._folder / "writing").write_text(text)
        (self._folder / "writing").rename(self._folder / "models.config")

    def start(self):
        self.configure(*self._first)
        rest, rpc = free_ports(2)
        self.rest, self.grpc = f"http://127.0.0.1:{rest}", f"grpc://127.0.0.1:{rpc}"
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    "tensorflow_model_server",
                    f"--port={rpc}",
                    f"--rest_api_port={rest}",
                    f"--model_config_file={self._folder / 'models.config'}",
                    f"--model_config_file_poll_wait_seconds={self._poll_seconds}",
                    f"--file_system_poll_wait_seconds={self._poll_seconds}",
                    "--allow_version_labels_for_unavailable_models=true",
                    "--enable_batching=true",
                    # Else a version that cannot be loaded says so after five minutes.
                    "--max_num_load_retries=0",
                    f"--batching_parameters_file={BATCHING}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 120
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._folder / "log").read_text()[-4000:]
                self.stop()
                raise RuntimeError(f"tensorflow_model_server did not come up:\n{log}")
            time.sleep(0.1)

    def _ready(self):
        try:
            answer = requests.get(f"{self.rest}/v1/models/{self.name}", timeout=5)
        except requests.RequestException:
            return False
        return "AVAILABLE" in answer.text

    def stop(self):
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder)
