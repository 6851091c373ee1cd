"""A real nginx with saved_models/nginx.conf, before a server of this machine.

    with running_front(folder, rest_port, grpc_port, timeout="1s") as front:
        front.rest, front.grpc  # urls
        front.new_lines(0, 1, "status=200")  # of the access log

Only what has to differ on this machine is replaced in the file: addresses, folders and, if given,
the time that a client may take for its body.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import time
from typing import NamedTuple

from ports import reserved_ports
from shared_data import REPOSITORY

CONFIG = REPOSITORY / "saved_models" / "nginx.conf"
missing_software = None if shutil.which("nginx") else "there is no nginx (Debian: nginx-light)"


class Front(NamedTuple):
    """A running front.

    Attributes:
        rest: its url for REST.
        grpc: its url for gRPC.
        folder: the folder that it reads keys from and writes its logs to.
    """

    rest: str
    grpc: str
    folder: pathlib.Path

    def num_lines(self):
        """Returns the number of lines in the access log."""
        return len((self.folder / "access.log").read_text().splitlines())

    def new_lines(self, start, count, text):
        """Returns `count` lines with a text of the access log, once they are there.

        nginx writes a line after it has sent the answer, so that also the lines of other requests
        may follow index `start`.
        """
        deadline = time.monotonic() + 30
        while True:
            lines = (self.folder / "access.log").read_text().splitlines()[start:]
            lines = [line for line in lines if text in line]
            if len(lines) >= count:
                return lines
            assert time.monotonic() < deadline, lines
            time.sleep(0.01)


@contextlib.contextmanager
def running_front(folder, rest_port, grpc_port, timeout=None):
    """Starts nginx with the keys in `folder`, and stops it at the end of the block."""
    with reserved_ports(2) as (https, grpcs):
        replaced = {
            "listen 8443 ssl": f"listen 127.0.0.1:{https} ssl",
            "listen 8444 ssl": f"listen 127.0.0.1:{grpcs} ssl",
            "server serving:8501;": f"server 127.0.0.1:{rest_port};",
            "server serving:8500;": f"server 127.0.0.1:{grpc_port};",
            "/etc/nginx/front/": f"{folder}/",
            " /tmp/": f" {folder}/",
            "/dev/stdout": str(folder / "access.log"),
            "/dev/stderr": str(folder / "error.log"),
        }
        if timeout is not None:
            replaced["client_body_timeout 10s"] = f"client_body_timeout {timeout}"
        text = CONFIG.read_text()
        assert all(old in text for old in replaced)
        # In one pass: the folder of a test may itself lie in /tmp.
        pattern = "|".join(map(re.escape, replaced))
        text = re.sub(pattern, lambda match: replaced[match[0]], text)
        config = folder / "nginx" / "nginx.conf"
        config.parent.mkdir()
        config.write_text(text)
        command = ["nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
        if os.geteuid() == 0:  # else its workers could not enter the folder of the test
            command += ["-g", "user root;"]
        # The command returns when nginx listens.
        process = subprocess.run(command, capture_output=True, text=True, timeout=30)
        errors = (folder / "error.log").read_text() if (folder / "error.log").exists() else ""
        assert process.returncode == 0, process.stderr + errors
        try:
            yield Front(f"https://localhost:{https}", f"grpcs://localhost:{grpcs}", folder)
        finally:
            subprocess.run([*command, "-s", "stop"], capture_output=True, check=True, timeout=30)
