"""Features of callers: the objects `features` in JSON, checked against `[features]` and packed as models read them."""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct, UnsetType, defstruct

from state.behavior import category_key
from state.feature import LARGEST_NUMBER, Feature, Kind, Of
from state.feature_layout import FeatureLayout
from stream.errors import EventError

MAX_FEATURES = 64
"""Of a configuration."""
MAX_OBJECT_BYTES = 16_384
"""Of one object `features`."""
RESERVED_NAMES = frozenset({"item", "category", "action", "ts"})
"""What records have already."""

_Number = Annotated[float, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
_Text = Annotated[str, Meta(max_length=256)] | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_NAN = float("nan")
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding them can raise."""

Given = Raw | UnsetType
"""The JSON of `features` as it came."""


class FeatureDefinition(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One feature.

    Attributes:
        of: what it describes. `context` and `user` features stand in an impression's `features`, those of an `item` in
            a candidate's and in a behaviour's, those of a `behavior` in a behaviour's alone.
        kind: `number`; `category`, a text or whole number; `categories`, up to `size` of them; `vector` of `size`
            numbers.
        size: numbers of a vector, 1 to 256; most values of `categories`, 1 to 16 (4 unless given).
        default: number or category where the feature is missing. Without one it is missing to the model as well, which
            then takes the mean of a number, and no value of a category.
    """

    of: Of
    kind: Kind
    size: Annotated[int, Meta(ge=1, le=256)] | None = None
    default: float | str | None = None

    def feature(self, name: str) -> Feature:
        """Return it as models know it.

        Raises:
            ValueError: when size or default do not fit its kind.
        """
        if self.kind == "vector" and self.size is None:
            raise ValueError("a vector needs its size")
        if self.kind in ("number", "category") and self.size not in (None, 1):
            raise ValueError(f"a {self.kind} has size 1")
        if self.kind == "categories" and (self.size or 0) > 16:
            raise ValueError("at most 16 categories")
        wanted = {"number": float, "category": str}.get(self.kind)
        if self.default is not None and (wanted is None or not isinstance(self.default, wanted)):
            raise ValueError(f"a default of {self.default!r} is none for kind {self.kind!r}")
        if isinstance(self.default, float) and not abs(self.default) <= LARGEST_NUMBER:
            raise ValueError(f"the default must be within ±{LARGEST_NUMBER:g}")
        return Feature(name, self.of, self.kind, self.size or (4 if self.kind == "categories" else 1))


class FeatureSchema:
    """Checks and packs features.

    Args:
        definitions: by name.
        refuse_unknown: whether a name that is not defined is an error; else it is ignored.
    """

    def __init__(self, definitions: Mapping[str, FeatureDefinition], *, refuse_unknown: bool = False) -> None:
        self.features = tuple(definitions[name].feature(name) for name in sorted(definitions))
        self.layout = FeatureLayout.of(self.features)
        self.reads = bool(self.features) or refuse_unknown
        """Whether `features` in JSON are looked at."""
        self.missing: Counter[str] = Counter()
        """Feature → how often it was not given, or null."""
        defaults = {name: definition.default for name, definition in definitions.items()}

        def group(*of: Of) -> _Group:
            members = [feature for feature in self.features if feature.of in of]
            return _Group(members, defaults, self.missing, refuse_unknown=refuse_unknown)

        self._context = group("context", "user")
        self._item = group("item")
        self._behavior = group("item", "behavior")

    @property
    def context_type(self) -> type[Struct]:
        """What the JSON of an impression's own features may hold."""
        return self._context.kind

    @property
    def item_type(self) -> type[Struct]:
        """The same of a candidate's."""
        return self._item.kind

    @property
    def behavior_type(self) -> type[Struct]:
        """The same of a behaviour's."""
        return self._behavior.kind

    def pack_behavior(self, features: Given) -> bytes:
        """Return the record of a behaviour's features.

        Raises:
            ValueError: names what is wrong.
        """
        return self._behavior.pack(features, "$.features")

    def pack_context(self, features: Given) -> bytes:
        """Return the record of an impression's own features; raises as `pack_behavior`."""
        return self._context.pack(features, "$.features")

    def pack_item(self, features: Given, place: int) -> bytes:
        """Return the record of the features of a candidate at a place in its list; raises as `pack_behavior`."""
        return self._item.pack(features, f"$.candidates[{place}].features")

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.features)


class _Group:
    """The features of one object."""

    def __init__(
        self,
        features: Iterable[Feature],
        defaults: Mapping[str, float | str | None],
        missing: Counter[str],
        *,
        refuse_unknown: bool,
    ) -> None:
        members = list(features)
        self._missing = missing
        self._read = [(feature.name, _packer(feature, defaults[feature.name])) for feature in members]
        fields = [(feature.name, _json_type(feature) | None, None) for feature in members]
        self.kind = defstruct("Features", fields, forbid_unknown_fields=refuse_unknown, frozen=True)
        self._decode = msgspec.json.Decoder(self.kind).decode
        self._empty = self.kind()

    def pack(self, given: Given, where: str) -> bytes:
        """Return the record of one object of features.

        Args:
            given: its JSON, if there is any.
            where: what it belongs to, for errors, such as `$.features`.

        Raises:
            ValueError: for a value of the wrong type, size or range, an unknown name, or too many bytes; names it.
        """
        values = self._empty
        if given is not msgspec.UNSET:
            assert isinstance(given, Raw)
            content = bytes(given)
            if len(content) > MAX_OBJECT_BYTES:
                raise ValueError(f"`{where}`: {len(content)} bytes; at most {MAX_OBJECT_BYTES}")
            if content != b"null":
                try:
                    values = self._decode(content)
                except _UNREADABLE as error:
                    raise ValueError(_words(error, content, where)) from None
        packed = b""
        for name, pack in self._read:
            value = getattr(values, name)
            if value is None:
                self._missing[name] += 1
            packed += pack(value)
        return packed


def _words(error: Exception, content: bytes, where: str) -> str:
    """Return what is wrong with an object of features, and where in its event."""
    what, at, path = str(error).rpartition(" - at `$")
    if at and path.endswith("`"):
        return f"{what} - at `{where}{path}"
    return f"{error} - at `{where}{_unreadable(content)}`"


def _unreadable(content: bytes) -> str:
    """Return the path of the first value that is no text in UTF-8, or nested too deeply; empty when there is none."""
    with suppress(*_UNREADABLE):
        values = msgspec.json.decode(content, type=dict[str, Raw])
        return next((f".{name}" for name, value in values.items() if not _is_readable(value)), "")
    return ""


def _is_readable(value: Raw) -> bool:
    with suppress(*_UNREADABLE):
        msgspec.json.decode(value)
        return True
    return False


def _json_type(feature: Feature) -> Any:
    match feature.kind:
        case "number":
            return _Number
        case "category":
            return _Text
        case "categories":
            return Annotated[list[_Text], Meta(max_length=feature.size)]
        case "vector":
            return Annotated[list[_Number], Meta(min_length=feature.size, max_length=feature.size)]


def _packer(feature: Feature, default: float | str | None) -> Callable[[Any], bytes]:
    """Return what makes bytes of a value, as `FeatureLayout` has them; None stands for a missing one."""
    size = feature.size
    if feature.embeds:
        pack_keys = struct.Struct(f"<{size}I").pack
        nothing = pack_keys(*[0] * size)
        if feature.kind == "category":
            instead = nothing if default is None else pack_keys(category_key(str(default)))
            return lambda value: instead if value is None else pack_keys(category_key(str(value)))

        def pack_several(value: list[str | int] | None) -> bytes:
            keys = [category_key(str(each)) for each in value or ()]
            return pack_keys(*keys, *[0] * (size - len(keys)))

        return pack_several
    pack_numbers = struct.Struct(f"<{size}f").pack
    unknown = pack_numbers(*[_NAN if default is None else default] * size)
    if feature.kind == "number":
        return lambda value: unknown if value is None else pack_numbers(value)
    return lambda value: unknown if value is None else pack_numbers(*value)


NO_FEATURES = FeatureSchema({})
"""Where none are defined, and any are ignored: `features` in JSON are not read."""


def encode_features(features: Mapping[str, Any] | None) -> Given:
    """Return features as an event has them.

    Args:
        features: numbers, texts, and lists of them by name; a missing one may be None. None for no features.

    Raises:
        EventError: for what JSON cannot say, such as NaN, and for too much of it.
    """
    if features is None:
        return msgspec.UNSET
    try:
        content = json.dumps(dict(features), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EventError(f"features: {error}") from None
    if len(content) > MAX_OBJECT_BYTES:
        raise EventError(f"features: {len(content)} bytes of JSON; at most {MAX_OBJECT_BYTES}")
    return Raw(content)


def packed_features(features: Given) -> bytes:
    """Return the record that stands in the place of an object of features, once it was packed."""
    assert isinstance(features, Raw)
    return bytes(features)
