"""API keys: read from a file, and compared in constant time."""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from pathlib import Path

from stream.errors import SettingsError
from stream.runtime.addresses import host_and_port
from stream.settings import GatewaySettings

_SHORTEST = 16


class ApiKeys:
    """The keys that callers may have; without any, everybody may call.

    Args:
        keys: the keys.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        # Digests have one length, so that a comparison says nothing of a key's length either.
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def accept(self, authorization: str) -> bool:
        """Say whether a header `Authorization: Bearer KEY` (RFC 6750) has one of the keys, or none is needed."""
        scheme, _, key = authorization.partition(" ")
        given = _digest(key.strip())
        found = False
        for digest in self._digests:  # all of them: how long it takes must not depend on which one fits
            found |= hmac.compare_digest(given, digest)
        return not self._digests or (found and scheme.lower() == "bearer")


def read_keys(settings: GatewaySettings) -> ApiKeys:
    """Return the keys of the file that the settings name: one a line; empty lines and those with # are passed over.

    Raises:
        SettingsError: when the file cannot be read, holds no key or one of fewer than 16 characters, and when there is
            no file although the address can be reached from other machines.
    """
    if not settings.keys:
        if not settings.allow_anonymous and not is_loopback(settings.address):
            raise SettingsError(
                f"gateway.address={settings.address} can be reached from other machines and gateway.keys names no file:"
                " everybody could write. Give it a file of keys, or gateway.allow_anonymous=true where something in"
                " front of it checks who calls"
            )
        return ApiKeys()
    try:
        lines = Path(settings.keys).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"gateway.keys: {error}") from None
    keys = [key for line in lines if (key := line.strip()) and not key.startswith("#")]
    if not keys or min(map(len, keys)) < _SHORTEST:
        raise SettingsError(
            f"gateway.keys: {settings.keys} must have keys of at least {_SHORTEST} characters, one a line"
        )
    return ApiKeys(keys)


def is_loopback(address: str) -> bool:
    """Say whether HOST:PORT is reachable from this machine alone.

    >>> is_loopback("127.0.0.1:80"), is_loopback("[::1]:80"), is_loopback("0.0.0.0:80"), is_loopback(":80")
    (True, True, False, False)
    """
    try:
        host = host_and_port(address)[0].strip("[]")
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()
