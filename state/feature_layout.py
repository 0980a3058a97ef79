"""How the features of a request, its candidates and behaviours lie in packed records."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import msgspec

from state.feature import Feature, Of
from state.records import KEYS, NUMBERS, Fields, Record, fields_of, record_of


@dataclass(frozen=True)
class FeatureLayout:
    """The three kinds of records; see `state.records`.

    Attributes:
        context: of a request: its own features and its user's.
        item: of a candidate.
        behavior: `BEHAVIOR`, then the features of its item and its own.
    """

    context: Record
    item: Record
    behavior: Record

    @classmethod
    def of(cls, features: Iterable[Feature]) -> "FeatureLayout":
        """Return the layout of these features, whatever their order."""
        known = sorted(features, key=lambda feature: feature.name)
        return cls(
            record_of(_fields(known, "context", "user")),
            record_of(_fields(known, "item")),
            record_of(_fields(known, "item", "behavior"), of_behavior=True),
        )

    @cached_property  # every impression and every sample asks for it
    def text(self) -> str:
        """The layout as short text; empty without features."""
        groups = [fields_of(record) for record in (self.context, self.item, self.behavior)]
        return msgspec.json.encode(groups).decode() if any(groups) else ""


@lru_cache(maxsize=64)
def parse_layout(text: str) -> FeatureLayout:
    """Return the layout of which this is the text.

    Raises:
        ValueError: when it is none.
    """
    try:
        context, item, behavior = msgspec.json.decode(text or "[[],[],[]]", type=tuple[Fields, Fields, Fields])
        return FeatureLayout(record_of(context), record_of(item), record_of(behavior, of_behavior=True))
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise ValueError(f"{text[:100]!r} is no layout of features: {error}") from None


def _fields(features: Iterable[Feature], *of: Of) -> Fields:
    return [
        (feature.name, KEYS if feature.embeds else NUMBERS, feature.size) for feature in features if feature.of in of
    ]
