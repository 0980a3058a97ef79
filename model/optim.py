"""How an arm learns: step sizes, clipping, and the size that its tables may reach."""

from typing import Annotated

from msgspec import Meta, Struct

Rate = Annotated[float, Meta(gt=0, le=1)]


class OptimSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of a learner.

    Attributes:
        dense_lr: of Adam, for everything but the embedding tables.
        embedding_lr: of row-wise Adagrad, for the tables.
        clip: largest norm of the dense gradient; embedding steps are bounded by Adagrad itself.
        max_rows: of each table; keys beyond them stay at their initial vector.
    """

    dense_lr: Rate = 3e-3
    embedding_lr: Rate = 0.1
    clip: Annotated[float, Meta(gt=0)] = 5.0
    max_rows: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 2**22
