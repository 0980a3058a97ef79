"""The numbers that define a simulated world."""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from stream.errors import SettingsError

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]

SHORT_WINDOWS = {"attribution_window_s": 5.0, "allowed_lateness_s": 0.5}
"""Settings of a worker in a run of a minute or two, so that negative labels come as in a long run."""

EARLY_LABELS = {"labels": "early", "label_wait_s": 0.5}
"""Settings of a worker whose models shall learn what is not clicked before the windows close."""


class WorldConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many users and items there are, what users care about, and how fast that changes.

    The log odds of a click are the sum of `base`, what the user is like (`user_effect_sd`), whether the item's
    category is among the user's interests (`interest`) or the sequel of two of them (`sequel`), how the item suits the
    user's taste (`taste`), how good the item is (`quality`) and how fashionable its category is right now (`fashion`).
    That is the click on an item that is looked at; with `position_bias`, items further down are looked at less often.

    Attributes:
        users: number of users.
        history: behaviours of each user before the world starts.
        categories: number of categories.
        items_per_category: places for items in each category; a place always holds one living item.
        interests: long-standing interests (categories) of each user, followed one after the other in a fixed
            round.
        block: mean number of behaviours a user stays with one interest; it returns after `interests * block`.
        noise: share of behaviours that follow nothing but popularity.
        dormant: weight, in the log odds, of an interest that is not the current one. At 1 all interests count
            alike; at 0 only the current one does, and a long history tells nothing that a short one does not.
        base: log odds of a click on an average item outside the user's interests.
        interest: what the current interest adds to the log odds.
        sequel: what is added to the log odds of an item whose category is the sequel of two others, where the user
            follows both of these and came to the second one after the first. Neither tells it alone.
        taste: standard deviation of the part that depends on user and item together.
        quality: standard deviation of the items' own quality.
        fashion: standard deviation of the categories' appeal, which drifts.
        user_effect_sd: standard deviation between users who click much and users who click little, in
            the log odds.
        long_tail: exponent of the popularity of items within a category; 0 makes all alike.
        lifetime_s: mean life of an item. Its successor is another item with another quality.
        drift_s: mean period in which fashion comes and goes.
        taste_s: period in which a user's taste goes once round.
        shift_s: period with one sudden shift in it, at a seeded moment; 0 for none.
        shift_share: share of the categories whose fashion jumps in a shift, and of the users of whom one interest gives
            way to a new one.
        position_bias: η of the probability n^−η that the n-th best item shown is looked at. At 0 all that is shown is
            looked at; at 1 the tenth is looked at a tenth as often as the first.
        gap_s: mean time between two behaviours of a user in the history.
        organic: mean number of behaviours of a user around each impression that no impression led to.
        candidates: items asked to be ranked in an impression.
        from_interests: share of the candidates drawn from the user's interests, current and dormant alike.
        from_popular: share of the candidates drawn by popularity. The rest is drawn evenly from all living
            items.
    """

    users: Count = 400
    history: Count = 1000
    categories: Count = 60
    items_per_category: Count = 25
    interests: Count = 8
    block: Count = 60
    noise: Share = 0.2
    dormant: Share = 0.9
    base: float = -4.0
    interest: NotNegative = 2.4
    sequel: NotNegative = 0.0
    taste: NotNegative = 0.5
    quality: NotNegative = 0.4
    fashion: NotNegative = 0.5
    user_effect_sd: NotNegative = 0.3
    long_tail: NotNegative = 0.8
    lifetime_s: Seconds = 900.0
    drift_s: Seconds = 300.0
    taste_s: Seconds = 3600.0
    shift_s: NotNegative = 0.0
    shift_share: Share = 0.3
    position_bias: NotNegative = 0.0
    gap_s: Seconds = 3600.0
    organic: NotNegative = 3.0
    candidates: Count = 40
    from_interests: Share = 0.25
    from_popular: Share = 0.25

    def __post_init__(self) -> None:
        """Refuse a world that cannot be.

        Raises:
            ValueError: for more interests than categories, more candidates than items, or shares above 1 in
                sum.
        """
        if self.interests > self.categories:
            raise ValueError(f"{self.interests} interests need as many categories, there are {self.categories}")
        if self.candidates > self.categories * self.items_per_category:
            raise ValueError(f"{self.candidates} candidates need as many items: raise categories or items_per_category")
        if self.from_interests + self.from_popular > 1:
            raise ValueError("from_interests and from_popular are shares of the candidates: their sum is at most 1")


def with_changes(config: WorldConfig, changes: Iterable[str]) -> WorldConfig:
    """Return the world with these `key=value` changed.

    Raises:
        SettingsError: for an unknown key, or a value that cannot be.
    """
    changed = {key: value for key, _, value in (change.partition("=") for change in changes)}
    try:
        return msgspec.convert(msgspec.to_builtins(config) | changed, WorldConfig, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"--world: {error}") from None
