"""Who listens at a port, and where nobody does."""

import socket

ANSWER_SECONDS = 3


def answers(address: str) -> bool:
    """Whether something listens at host:port. What is not of that form, such as local, is not tried."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not (host and port.isdigit()):
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError):
        return False
    return True


def free_ports(number: int) -> list[int]:
    """Ports of 127.0.0.1 at which nothing listens now."""
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
