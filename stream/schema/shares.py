"""Shares that a bandit has chosen: a record of `experiment-shares`, JSON. Nothing is ever removed from that topic."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from stream.schema.events import Millis, encode_json

Fraction = Annotated[float, Meta(ge=0, le=1)]


class SharesStep(Struct, frozen=True, kw_only=True):
    """Shares of the arms for impressions from a time on, among the users who do not explore.

    It counts when it was written before it begins, and begins late enough after the last one that counts; so all who
    read the topic come to the same schedule.

    Attributes:
        experiment: name of the experiment.
        salt: of the experiment.
        begin: from when on the shares hold, ms since the epoch.
        shares: arm → its share; they sum to 1.
        best: arm → the probability that its click rate is the highest, from which the shares follow.
        shown: arm → items shown to those who explore, as far as they were counted.
        clicks: arm → clicks on them.
    """

    experiment: str
    salt: str
    begin: Millis
    shares: dict[str, Fraction]
    best: dict[str, Fraction]
    shown: dict[str, int] = {}
    clicks: dict[str, int] = {}


encode_shares = encode_json
decode_shares = msgspec.json.Decoder(SharesStep).decode
