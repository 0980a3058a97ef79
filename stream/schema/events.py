"""The events that travel: typed, frozen, decoded with validation errors that name the field.

External events (`Behavior`, `Impression`, `Withdrawal`, `Click`, `Score`) are JSON. Internal ones (`Sample`,
`Outcome`) are MessagePack arrays. Of what comes from outside, `null` means the default: a behaviour's `category` and
`action`, a candidate's `category`, an impression's `slots` and `explain`, any `features`. Times are integer
milliseconds since the Unix epoch; ids are strings of 1 to 256 characters. `features` are read by
`stream.schema.features`.
"""

from collections.abc import Mapping, Sequence, Set
from itertools import chain
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct

from stream.schema.features import Given, encode_features

Id = Annotated[str, Meta(min_length=1, max_length=256)]
ShortText = Annotated[str, Meta(max_length=256)]
Natural = Annotated[int, Meta(ge=0, le=2**62)]
Millis = Annotated[int, Meta(ge=0, le=2**48)]


class RequestKey(NamedTuple):
    """The identity of a request. Front ends number their own, so `request_id` means nothing without its user."""

    user: str
    request_id: str

    @property
    def text(self) -> str:
        """The key as one string; no two keys have the same."""
        return f"{len(self.user)}:{self.user}{self.request_id}"


class Behavior(Struct, frozen=True, gc=False):
    """`user` did `action` with `item` of `category` at `ts`. The only event that changes a sequence."""

    user: Id
    item: Id
    ts: Millis
    category: ShortText = ""
    action: ShortText = "view"
    features: Given = UNSET


class Candidate(Struct, frozen=True, gc=False):
    """An item to rank."""

    item: Id
    category: ShortText = ""
    features: Given = UNSET

    @classmethod
    def of(cls, item: str, category: str = "", features: Mapping[str, Any] | None = None) -> "Candidate":
        """Return an item to rank, with features of items by name, as `[features]` of the settings defines them.

        Raises:
            EventError: for features that JSON cannot say.
        """
        return cls(item, category, encode_features(features))


class Impression(Struct, frozen=True):
    """Rank `candidates` for `user` at `ts`; the best `slots` of them will be shown. `explain` asks why."""

    request_id: Id
    user: Id
    ts: Millis
    candidates: Annotated[list[Candidate], Meta(min_length=1)]
    slots: Annotated[int, Meta(ge=1, le=65535)] = 10
    features: Given = UNSET
    explain: bool = False

    @property
    def request(self) -> RequestKey:
        """The request's identity."""
        return RequestKey(self.user, self.request_id)


class Withdrawal(Struct, frozen=True, gc=False):
    """What `user` asked as request `withdraws` was not shown as it was answered: nothing is learned from it.

    It lies in `impressions`, behind the impression that it withdraws.
    """

    withdraws: Id
    user: Id
    ts: Millis

    @property
    def request(self) -> RequestKey:
        """The identity of the request that it withdraws."""
        return RequestKey(self.user, self.withdraws)


class Click(Struct, frozen=True, gc=False):
    """In request `request_id`, `user` clicked `item` at `ts`. The only source of labels."""

    request_id: Id
    user: Id
    item: Id
    ts: Millis

    @property
    def request(self) -> RequestKey:
        """The request's identity."""
        return RequestKey(self.user, self.request_id)


class Spent(Struct, frozen=True):
    """Milliseconds that an answer took since the impression's Kafka timestamp: waiting, reading state, scoring.

    `score` is the time of the whole batch, since no answer of it comes sooner. `cpu` is this answer's part of the CPU
    time that the scoring thread took for its arm's batch; 0 when not known.
    """

    wait: float
    state: float
    score: float
    cpu: float = 0.0


class Team(Struct, frozen=True):
    """What one arm has placed on an interleaved list: (epoch, version) of its model, indices of the candidates."""

    arm: str
    epoch: Natural
    version: Natural
    members: list[int]


class Shadow(Struct, frozen=True):
    """What an arm would have shown: (epoch, version) of its model, indices of the best `slots` candidates, best first.

    `probabilities` are those of its model, one for each of `order`.
    """

    arm: str
    epoch: Natural
    version: Natural
    order: list[int]
    probabilities: list[float]


class Reason(Struct, frozen=True, gc=False):
    """A behaviour that an answer rests on: its `ts`, and the weight in [0, 1] with which the model has read it."""

    ts: Millis
    weight: float


class Score(Struct, frozen=True):
    """The answer to an impression.

    `items` and `probabilities` keep the order of the impression's candidates; `order` holds indices into them, best
    first. `epoch` and `version` name the model state of `arm` that answered, `seen` is how many behaviours of the
    user it knew (the running count; of which the newest 1000 or so were read). `read_to` is the offset in its partition
    of `behaviors` up to which they were folded.

    `teams` is empty unless the list was interleaved: then each candidate is in one of the two teams, `order` is the
    list that they drafted, a probability is that of the model which placed the candidate, and `epoch` and `version` are
    those of the first team.

    `shadows` says what other arms with `shadow = true` would have shown. It is no part of the answer.
    `shares` is empty unless a bandit chooses the shares: then it has the probability of each arm for this user then.
    `why` is empty unless the impression asked for it, and its model reads behaviours by weights that it can tell: then
    it has the behaviours with the largest weights, those first, as means over the items to be shown.
    """

    request_id: str
    user: str
    ts: Millis
    arm: str
    epoch: Natural
    version: Natural
    items: list[str]
    probabilities: list[float]
    order: list[int]
    slots: Natural
    seen: Natural
    spent_ms: Spent
    read_to: int = 0
    teams: list[Team] = []
    shadows: list[Shadow] = []
    why: list[Reason] = []
    shares: dict[str, Annotated[float, Meta(ge=0, le=1)]] = {}

    @property
    def request(self) -> RequestKey:
        """The request's identity."""
        return RequestKey(self.user, self.request_id)

    def __post_init__(self) -> None:
        """Refuse an order that is no permutation, and probabilities out of range.

        Raises:
            ValueError: when the lists do not fit one another, or a probability is not in [0, 1].
        """
        if self.teams and sorted(chain(*(team.members for team in self.teams))) != list(range(len(self.items))):
            raise ValueError(f"the teams do not divide the {len(self.items)} items")
        if len(self.probabilities) != len(self.items) or sorted(self.order) != list(range(len(self.items))):
            raise ValueError(f"probabilities and order do not fit the {len(self.items)} items")
        if not all(0.0 <= probability <= 1.0 for probability in self.probabilities):
            raise ValueError("a probability is not within 0 and 1")
        for shadow in self.shadows:
            distinct = set(shadow.order)
            if not len(distinct) == len(shadow.order) == len(shadow.probabilities) or not distinct <= set(self.order):
                raise ValueError(f"the order of shadow {shadow.arm!r} does not fit the {len(self.items)} items")


class SequenceName(NamedTuple):
    """Names a user's sequence as it stood: whoever folds the user's partition of `behaviors` that far has it.

    Attributes:
        seen: the user's running count of behaviours.
        read_to: the offset of `behaviors` up to which they were folded.
        checksum: of the sequence (`state.behavior.checksum`): another one is never taken for it.
    """

    seen: Natural = 0
    read_to: Natural = 0
    checksum: Annotated[int, Meta(ge=0)] = 0


class Sample(Struct, frozen=True, array_like=True):
    """Labelled items of one request, with the name of the sequence that it was scored with.

    The arrays are packed little-endian and have one entry an item: `items` uint64 keys, `categories` uint32 keys,
    `positions` uint16 ranks in the answer, `labels` uint8. Those of an interleaved request come apart by team, under
    the arm that placed them. `numbers` holds what the stream knew of each item when it was scored, float16
    (`model.statistics`); it is empty where no arm reads that. `layout` says how features of callers lie in `context`
    (one record) and `attributes` (one an item), both as they were when it was scored (`state.feature_layout`); it is
    empty where there are none.
    `clicked_at` is the newest Kafka timestamp (ms) of the clicks in it, 0 when there is none.
    With early labels, an item that is clicked late comes twice: with label 0, then with label 1.
    """

    request_id: str
    user: str
    arm: str
    ts: Millis
    epoch: int
    version: int
    clicked_at: Millis
    sequence: SequenceName
    items: bytes
    categories: bytes
    positions: bytes
    labels: bytes
    numbers: bytes = b""
    layout: str = ""
    context: bytes = b""
    attributes: bytes = b""

    @property
    def request(self) -> RequestKey:
        """The request's identity."""
        return RequestKey(self.user, self.request_id)


class Outcome(Struct, frozen=True, array_like=True):
    """What monitoring needs of a `Sample`; one entry an item in each list.

    Probabilities lie in [0, 1]; a label is 1 for a click, else 0. `team` is empty unless the request was interleaved:
    then it names the arm that placed these items, `epoch` and `version` being those of its model, while `arm` is the
    user's. `read_to` is as in `Score`: what was answered before its user was erased does not count as the user's.
    `propensity` is the probability with which a bandit put the user into `arm`; 0 where there is none: then shares
    follow from settings and time.
    """

    request_id: str
    user: str
    arm: str
    ts: int
    epoch: int
    version: int
    items: list[str]
    positions: list[int]
    probabilities: list[float]
    labels: list[int]
    team: str = ""
    read_to: int = 0
    propensity: float = 0.0

    @property
    def request(self) -> RequestKey:
        """The request's identity."""
        return RequestKey(self.user, self.request_id)

    def __post_init__(self) -> None:
        """Refuse what cannot be counted.

        Raises:
            ValueError: when the lists do not fit one another, or a probability or label is out of range.
        """
        if not len(self.items) == len(self.positions) == len(self.probabilities) == len(self.labels):
            raise ValueError(f"positions, probabilities and labels do not fit the {len(self.items)} items")
        if not all(0.0 <= probability <= 1.0 for probability in self.probabilities):
            raise ValueError("a probability is not within 0 and 1")
        if not all(label in (0, 1) for label in self.labels):
            raise ValueError("a label is neither 0 nor 1")


DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding bytes that anybody may have written can raise."""

encode_json = msgspec.json.Encoder().encode

_Event = TypeVar("_Event", bound=Struct)


class _NullableDecoder(Generic[_Event]):
    """Decodes JSON in which `null` stands for the default of optional fields.

    Only events that are refused at first are decoded again, so events without `null` cost nothing more.

    Args:
        kind: what is decoded.
        optional: its optional fields.
        candidates: the optional fields of each of its `candidates`.
    """

    def __init__(self, kind: type[_Event], optional: Set[str], candidates: Set[str] = frozenset()) -> None:
        self._decode = msgspec.json.Decoder(kind).decode
        self._optional = optional
        self._candidates = candidates

    def decode(self, value: bytes) -> _Event:
        """Return the event.

        Raises:
            msgspec.MsgspecError: one of `DECODE_ERRORS`, naming what is wrong.
        """
        try:
            return self._decode(value)
        except msgspec.ValidationError:
            if b"null" not in value or not isinstance(raw := msgspec.json.decode(value), dict):
                raise
        _drop_nulls(raw, self._optional)
        if self._candidates and isinstance(candidates := raw.get("candidates"), list):
            for candidate in candidates:
                if isinstance(candidate, dict):
                    _drop_nulls(candidate, self._candidates)
        return self._decode(encode_json(raw))


def _drop_nulls(values: dict[str, Any], fields: Set[str]) -> None:
    for field in fields:
        if field in values and values[field] is None:
            del values[field]


encode_packed = msgspec.msgpack.Encoder().encode
decode_behavior = _NullableDecoder(Behavior, {"category", "action"}).decode
_decode_plain = msgspec.json.Decoder(Behavior).decode


def decode_behaviors(values: Sequence[bytes]) -> list[Behavior] | None:
    """Decode many behaviours; None when one of them must be looked at alone, by `decode_behavior`.

    Each is decoded for itself. As one JSON array they would take as long, and two records that are no behaviours may
    make one together.
    """
    try:
        return list(map(_decode_plain, values))
    except DECODE_ERRORS:
        return None


decode_impression = _NullableDecoder(Impression, {"slots", "explain"}, candidates={"category"}).decode
decode_withdrawal = msgspec.json.Decoder(Withdrawal).decode
decode_click = msgspec.json.Decoder(Click).decode


class _Marked(Struct):
    withdraws: Any = UNSET


_decode_mark = msgspec.json.Decoder(_Marked).decode


def decode_request(value: bytes) -> Impression | Withdrawal:
    """Return what a record of `impressions` says; only those that are no impression are looked at twice.

    Raises:
        msgspec.MsgspecError: one of `DECODE_ERRORS`, naming what is wrong.
    """
    try:
        return decode_impression(value)
    except msgspec.ValidationError:
        if b'"withdraws"' not in value or _decode_mark(value).withdraws is UNSET:
            raise
    return decode_withdrawal(value)


decode_score = msgspec.json.Decoder(Score).decode
decode_sample = msgspec.msgpack.Decoder(Sample).decode
decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
