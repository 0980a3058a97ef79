"""What a feature is."""

from typing import Annotated, Literal

from msgspec import Meta, Struct
from xxhash import xxh3_64_intdigest

Of = Literal["context", "user", "item", "behavior"]
"""What it describes: a request (context) or its user, a candidate, or a behaviour."""
Kind = Literal["number", "category", "categories", "vector"]
"""What its value is: a number, a text, up to `size` texts, or `size` numbers."""


class Feature(Struct, frozen=True, forbid_unknown_fields=True):
    """A feature of callers, as models read it.

    Attributes:
        name: its name in the JSON of events.
        of: what it describes. One of an `item` describes the item of a behaviour as well.
        kind: what its value is.
        size: numbers of a vector, or the most values of `categories`; 1 of the other kinds.
    """

    name: str
    of: Of
    kind: Kind
    size: Annotated[int, Meta(ge=1)] = 1

    @property
    def embeds(self) -> bool:
        """Whether its values are looked up in an embedding table."""
        return self.kind in ("category", "categories")

    @property
    def table_prefix(self) -> int:
        """The upper 32 bits of its keys in that table; the lower ones are of the value (`value_key`)."""
        return (xxh3_64_intdigest(self.name.encode()) & 0xFFFF_FFFF or 1) << 32


def value_key(value: str) -> int:
    """Return the 32-bit key of a value; 0 of the empty text, which means "missing"."""
    return (xxh3_64_intdigest(value.encode()) & 0xFFFF_FFFF or 1) if value else 0
