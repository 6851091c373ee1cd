"""Ports of this machine for programs that need to know their port before they start."""

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def reserved_ports(count: int) -> Iterator[list[int]]:
    """Yields different ports of 127.0.0.1, which are reserved until the block ends.

    Each port is bound to a socket that does not listen. The system therefore refuses connections
    and gives the port to no other program, but a server that sets SO_REUSEADDR can listen there;
    gRPC, Python's servers, uvicorn and libevent do.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("127.0.0.1", 0))
        yield [each.getsockname()[1] for each in sockets]
