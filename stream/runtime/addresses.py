"""Addresses that this machine listens on."""


def host_and_port(address: str) -> tuple[str, int]:
    """Return the parts of HOST:PORT; the host may be empty.

    Raises:
        ValueError: when the port is missing or no number.

    >>> host_and_port("127.0.0.1:9100"), host_and_port("[::1]:0")
    (('127.0.0.1', 9100), ('[::1]', 0))
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError("it has no port")
    return host, int(port)
