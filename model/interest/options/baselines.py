"""Kinds without an interest model: what they add, the others must be worth more than."""

from typing import ClassVar

from model.interest.options.base import Options


class Counts(Options, frozen=True, kw_only=True, tag="counts"):
    """Match features and statistics alone, no embeddings."""

    pools: ClassVar[bool] = False


class Popularity(Options, frozen=True, kw_only=True, tag="popularity"):
    """Knows nothing of the user: one learned number an item and one a category."""

    pools: ClassVar[bool] = False


class Random(Options, frozen=True, kw_only=True, tag="random"):
    """A random order; learns nothing."""

    pools: ClassVar[bool] = False
