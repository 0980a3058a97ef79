"""A manifest lists the files of a snapshot or a checkpoint, and carries a checksum of itself."""

from typing import TypeVar

import msgspec
from msgspec import Struct
from xxhash import xxh3_128_hexdigest

_ManifestT = TypeVar("_ManifestT", bound=Struct)


def with_checksum(manifest: _ManifestT) -> _ManifestT:
    """Return a msgspec struct whose `checksum` is XXH3-128 of its own JSON with that field empty."""
    empty = msgspec.structs.replace(manifest, checksum="")
    return msgspec.structs.replace(empty, checksum=xxh3_128_hexdigest(msgspec.json.encode(empty)))
