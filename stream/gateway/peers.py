"""The gateways that share the users: each one reads the scores of its own partitions alone."""

from collections.abc import Sequence
from typing import NamedTuple

import aiohttp

from stream.gateway.problems import ProblemError

FORWARDED = "Samstream-Forwarded"
"""A header of requests that come from another gateway: they are not forwarded again."""
_KEPT = ("Content-Type", "Retry-After", "WWW-Authenticate")
_SLACK_S = 2.0


class PeerAnswer(NamedTuple):
    """The answer of another gateway: status, body, and those of its headers that the caller gets."""

    status: int
    body: bytes
    headers: dict[str, str]


class Peers:
    """Says which gateway has a user, and asks it: partition p belongs to the gateway number p modulo their number.

    So each score is read by one gateway, and a user's requests meet where their answers are remembered. Use it inside
    an event loop.

    Args:
        addresses: of all gateways, in an order that is the same for each; none for a gateway alone.
        own: which of them this one is.
        timeout_s: how long another one may take.
    """

    def __init__(self, addresses: Sequence[str], own: int, *, timeout_s: float) -> None:
        self._addresses = [address.rstrip("/") for address in addresses]
        self._own = own
        self._timeout = aiohttp.ClientTimeout(total=timeout_s + _SLACK_S)
        self._session: aiohttp.ClientSession | None = None

    def partitions(self, count: int) -> list[int]:
        """Return the partition numbers, of so many, whose scores this gateway reads."""
        return [number for number in range(count) if self.other(number) is None]

    def other(self, partition: int) -> str | None:
        """Return the address of the gateway that a partition belongs to; None for this one."""
        if not self._addresses or partition % len(self._addresses) == self._own:
            return None
        return self._addresses[partition % len(self._addresses)]

    async def ask(self, address: str, path: str, body: bytes, authorization: str) -> PeerAnswer:
        """Send a request to another gateway.

        Raises:
            ProblemError: 503, when it does not answer.
        """
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),  # calls are bounded before
            )
        headers = {"Content-Type": "application/json", FORWARDED: "1"}
        if authorization:
            headers["Authorization"] = authorization
        try:
            async with self._session.post(address + path, data=body, headers=headers) as answer:
                kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
                return PeerAnswer(answer.status, await answer.read(), kept)
        except (aiohttp.ClientError, TimeoutError) as error:
            text = f"the gateway of this user, {address}, does not answer: {error!r}"
            raise ProblemError(503, text, retry_after_s=1) from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
