"""What defines a network: a frozen specification, its named presets, and a fingerprint to compare."""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from xxhash import xxh3_128_hexdigest

from model.embedding.admission import MOST_SEEN
from model.errors import SpecError
from model.interest.options import KINDS, Interest, Popularity, Random, Sam
from state.feature import Feature

PARAMETER_FORMAT = 4
"""Raised when the same specification comes to mean other parameters; part of every fingerprint."""


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that fixes a network's parameters and mathematics.

    Attributes:
        interest: model between the sequence and the head, or what replaces both: its kind, and what is chosen of it.
        length: newest behaviours that are read; 0 for `popularity` and `random`, which read none.
        item_dim: width of an item's embedding.
        category_dim: width of a category's embedding; both are concatenated.
        match: exact matches of item and category between candidate and history: two learned attention logits,
            and counts and recencies for the head.
        hidden: widths of the head's hidden layers.
        statistics: half-lives (s), ascending, of the counts of items and categories that the head gets; none for a
            model without. Events are counted for ever as well.
        pool: the mean of all keys, and its product with the target, go to the head as well; of `mean` they do anyway.
        cross: products of every two of the head's features add to its logit.
        position: the place at which a candidate was shown explains a part of the logit while learning, and none when
            serving, so that an item is not better for having stood first.
        features: of callers that it reads; set from `[features]`.
    """

    interest: Interest = Sam()
    length: int = 1000
    item_dim: int = 16
    category_dim: int = 16
    match: bool = True
    hidden: tuple[int, ...] = (128, 64)
    statistics: tuple[float, ...] = ()
    pool: bool = True
    cross: bool = True
    position: bool = False
    features: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        fixed = _FIXED.get(self.kind, {})
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise SpecError(f"{name} of kind {self.kind!r} is {value}, it cannot be {getattr(self, name)}")
        for name in ("length", "item_dim", "category_dim"):
            if name not in fixed and getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if any(width < 1 for width in self.hidden):
            raise SpecError(f"hidden is {self.hidden}, but every layer needs at least 1 unit")
        lives = self.statistics
        if list(lives) != sorted(set(lives)) or not all(life > 0 and math.isfinite(life) for life in lives):
            raise SpecError(f"statistics are {lives}, but half-lives must be ascending, finite and above 0")
        self.interest.check(self.length)

    @property
    def kind(self) -> str:
        """Name of the kind of its interest model."""
        return self.interest.kind

    @property
    def embeds_features(self) -> bool:
        """Whether it looks values of features up in a table of embeddings."""
        return any(feature.embeds for feature in self.features)

    @property
    def embeds(self) -> bool:
        """Whether the network reads item and category embeddings at all."""
        return self.kind not in ("counts", "random")

    @property
    def numbers(self) -> int:
        """Numbers of each candidate that the head gets: of item and of category, their statistics."""
        return count_numbers(self.statistics)

    @property
    def initial_std(self) -> float:
        """Standard deviation of initial embeddings.

        With explicit matches nothing need stand out in a dot product, and small ones generalise better; without them,
        equal keys must.
        """
        return 0.05 if self.match else 0.5

    @property
    def width(self) -> int:
        """Width d of a key and of a target: all embeddings of item and category side by side."""
        return self.item_dim + self.category_dim + sum(self.interest.attention_dims)


def reads_features(spec: ModelSpec) -> bool:
    """Return whether a model of this kind can read features of callers: all but `popularity` and `random`."""
    return "features" not in _FIXED.get(spec.kind, {})


def count_numbers(half_lives_s: Sequence[float]) -> int:
    """Return how many numbers `model.statistics` gives of each candidate, counted at so many half-lives and ever."""
    return 6 * (len(half_lives_s) + 1) - 2 if half_lives_s else 0


_FIXED: Mapping[str, Mapping[str, int | tuple[Any, ...]]] = {
    "counts": {"match": True},
    "popularity": {
        "length": 0,
        "match": False,
        "item_dim": 1,
        "category_dim": 1,
        "statistics": (),
        "cross": False,
        "position": False,
        "features": (),
    },
    "random": {"length": 0, "match": False, "statistics": (), "cross": False, "position": False, "features": ()},
}
"""Fields that a kind leaves no choice in: `counts` reads match features alone, the last two nothing of the history."""

HALF_LIVES_S = tuple(86_400.0 * days for days in (3, 14, 60))
"""Of the statistics that presets read."""


def _preset(interest: Interest) -> ModelSpec:
    return ModelSpec(interest=interest, statistics=HALF_LIVES_S)


PRESETS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        **{kind: _preset(options()) for kind, options in KINDS.items() if kind not in _FIXED or kind == "counts"},
        "sam-paper": ModelSpec(
            interest=Sam(passes=3, normalise_readout=False, enhancement=True), match=False, pool=False, cross=False
        ),
        "sam-3p+": _preset(Sam(passes=3, enhancement=True)),
        "popularity": ModelSpec(interest=Popularity(), length=0, match=False, item_dim=1, category_dim=1, cross=False),
        "random": ModelSpec(interest=Random(), length=0, match=False, cross=False),
    }
)
"""Named specifications; `preset` also understands "<name>-<length>", such as "din-50"."""


def preset(name: str) -> ModelSpec:
    """Return the specification called `name`: a key of `PRESETS`, perhaps with "-<length>" after it.

    >>> preset("din-50").length
    50

    Raises:
        SpecError: when there is no such preset, or the length is 0.
    """
    if name in PRESETS:
        return PRESETS[name]
    found = re.fullmatch(r"(?P<base>.+)-(?P<length>\d+)", name)
    if found is None or found["base"] not in PRESETS:
        known = ", ".join(PRESETS)
        raise SpecError(f"no model preset is called {name!r}; known: {known}; each also with a length, as in 'din-50'")
    return msgspec.structs.replace(PRESETS[found["base"]], length=int(found["length"]))


def overridden(spec: ModelSpec, changes: Mapping[str, Any]) -> ModelSpec:
    """Return a specification with some fields changed, and of `interest` some options, or all with another `kind`.

    >>> overridden(preset("sam"), {"length": 50, "interest": {"passes": 3}}).interest.passes
    3

    Raises:
        SpecError: for a field, a kind or an option that is unknown, with those that are known, and for one that cannot
            have this value.
    """
    _known("model", changes, spec.__struct_fields__)
    interest = changes.get("interest", {})
    if not isinstance(interest, Mapping):
        raise SpecError(f"model.interest is {interest!r}, but must be a table: {{ kind = ..., ... }}")
    kind = interest.get("kind", spec.kind)
    if kind not in KINDS:
        raise SpecError(f"model.interest.kind is {kind!r}; known: {', '.join(KINDS)}")
    _known(f"model.interest of kind {kind!r}", interest, ("kind", *KINDS[kind].__struct_fields__))
    fields = msgspec.to_builtins(spec)
    options = fields["interest"] if kind == spec.kind else {}
    try:
        return msgspec.convert({**fields, **changes, "interest": {**options, **interest}}, ModelSpec, strict=False)
    except msgspec.ValidationError as error:
        raise SpecError(f"model: {error}") from None


def _known(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := given.keys() - set(known):
        raise SpecError(f"{what} has no {', '.join(sorted(unknown))}; it has: {', '.join(known)}")


def fingerprint(spec: ModelSpec) -> str:
    """Return 32 hex digits that differ when the parameters or the mathematics of two networks differ."""
    return xxh3_128_hexdigest(msgspec.json.encode((PARAMETER_FORMAT, spec), order="sorted"))


Rate = Annotated[float, Meta(gt=0, le=1)]


class OptimSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a learner.

    Attributes:
        dense_lr: of Adam, for everything but the embedding tables.
        embedding_lr: of row-wise Adagrad, for the tables.
        clip_norm: largest norm of the dense gradient; embedding steps are bounded by Adagrad itself.
        ema_decay: what predicts is an exponential average of the dense parameters, which keeps so much of itself a
            step; 0 to predict with the parameters as they are.
        max_rows: of each table; when more keys want one, the rows that were touched longest ago go.
        admit_after: how often a key must be seen in samples, as a behaviour or a candidate, to get a row; until then it
            has its initial vector.
        admission_keys: different keys without a row whose counts are kept, of each table, when `admit_after` is above
            1; 32 to 64 bytes each.
        expire_after_s: a row that no sample has touched for so long, in event time, goes: 90 days; 0 for never.
    """

    dense_lr: Rate = 1e-3
    embedding_lr: Rate = 0.2
    clip_norm: Annotated[float, Meta(gt=0)] = 5.0
    max_rows: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 2**22
    admit_after: Annotated[int, Meta(ge=1, le=MOST_SEEN)] = 1
    admission_keys: Annotated[int, Meta(ge=1, le=2**26)] = 2**18
    expire_after_s: Annotated[float, Meta(ge=0, le=1e10)] = 7_776_000.0
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99
