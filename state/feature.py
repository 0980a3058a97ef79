"""What a feature is."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from state.behavior import category_key

Of = Literal["context", "user", "item", "behavior"]
"""What it describes: a request (context) or its user, a candidate, or a behaviour."""
Kind = Literal["number", "category", "categories", "vector"]
"""What its value is: a number, a text, up to `size` texts, or `size` numbers."""

LARGEST_NUMBER = 1e15
"""Of a feature, either way: sums of squares of such numbers are finite in float32."""


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
        """The upper 32 bits of its keys in that table; the lower ones are of the value (`category_key`)."""
        return category_key(self.name) << 32
