"""What callers send and get: the JSON of the gateway's endpoints.

Limits of fields are those of `stream.schema.events`. Here, too, `null` means the default of an optional field.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from stream.schema.events import Id, Millis, Reason, ShortText

Features = Annotated[
    dict[str, Any], Meta(description="Numbers, texts and lists of them by name, as `[features]` of the settings says.")
]
Slots = Annotated[int, Meta(ge=1, le=65535, description="How many places are shown; 10 unless given.")]
Moment = Annotated[Millis, Meta(description="Milliseconds since 1970; now unless given.")]


class RankCandidate(Struct, frozen=True, omit_defaults=True):
    """An item to rank."""

    item: Id
    category: ShortText | None = None
    features: Features | None = None


class RankRequest(Struct, frozen=True, omit_defaults=True):
    """Rank `candidates` for `user`. A `request_id` that is repeated within a minute gets the same answer again."""

    user: Id
    candidates: Annotated[list[RankCandidate], Meta(min_length=1)]
    request_id: Id | None = None
    ts: Moment | None = None
    slots: Slots | None = None
    features: Features | None = None
    explain: Annotated[bool, Meta(description="Whether to say which behaviours weighed most.")] | None = None


class RankedItem(Struct, frozen=True):
    """An item with the probability of a click that the model gives it; null where no model has ranked it."""

    item: str
    probability: Annotated[float, Meta(ge=0, le=1)] | None


class RankAnswer(Struct, frozen=True):
    """All candidates, the best first; the first `slots` of them are to be shown.

    `ranked_by` is `model`, or `candidates` or `popularity` where no score came in time: then the order is that of the
    request, or that of what was ranked high for others; there is neither arm nor version, and nothing will be learned
    from what is shown. `arm`, `epoch` and `version` say which
    state of which model has answered, `seen` how many behaviours of the user it knew. `why` is empty unless `explain`
    was asked for: then the behaviours with the largest attention weights, as means over the items to be shown.
    """

    request_id: str
    user: str
    ranked_by: Literal["model", "candidates", "popularity"]
    items: list[RankedItem]
    slots: int
    arm: str | None = None
    epoch: int | None = None
    version: int | None = None
    seen: int | None = None
    why: list[Reason] = []


class ClickRequest(Struct, frozen=True):
    """`user` clicked `item` as shown by `request_id`. The behaviour that the click is is written as well."""

    user: Id
    request_id: Id
    item: Id
    ts: Moment | None = None
    category: ShortText | None = None
    action: ShortText | None = None
    features: Features | None = None


class BehaviorRequest(Struct, frozen=True, omit_defaults=True):
    """`user` did `action` (`view` unless given) with `item`."""

    user: Id
    item: Id
    ts: Moment | None = None
    category: ShortText | None = None
    action: ShortText | None = None
    features: Features | None = None


class Written(Struct, frozen=True):
    """How many records Kafka has taken."""

    written: int


class HealthAnswer(Struct, frozen=True):
    """Whether the gateway answers; if not, why."""

    healthy: bool
    trouble: str = ""
    notes: tuple[str, ...] = ()


class FieldError(Struct, frozen=True, omit_defaults=True):
    """What is wrong with one field: `pointer` is a JSON Pointer (RFC 6901), `line` counts from 1 in NDJSON."""

    detail: str
    pointer: str
    line: int | None = None


class ProblemDetails(Struct, frozen=True, omit_defaults=True):
    """An error (RFC 9457), `application/problem+json`."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []


decode_rank = msgspec.json.Decoder(RankRequest).decode
decode_click_request = msgspec.json.Decoder(ClickRequest).decode
decode_behavior_request = msgspec.json.Decoder(BehaviorRequest).decode
