"""Free ports of this machine."""

import random
import socket

from stream.errors import BrokerError

LOOPBACK = "127.0.0.1"
PORTS = range(15_000, 32_000, 2)
"""Those that `free_port` chooses from, without their successors; tests that run at a time have parts of their own."""
_given: set[int] = set()


def free_port() -> int:
    """Return a port that is free together with its successor, and that this process has not been given before.

    It lies below the range from which systems take the ports of outgoing connections: a client that connects to
    a broker that is down can otherwise be connected to itself, and keep the port from the broker.

    Raises:
        BrokerError: when no such port is found.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if port not in _given and is_free(port) and is_free(port + 1):
            _given.add(port)
            return port
    raise BrokerError("found no two free ports next to each other between 15000 and 32000 on 127.0.0.1")


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server can bind this port now."""
    with socket.socket() as probe:
        # As a server binds: connections of the last broker that are still closing do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
