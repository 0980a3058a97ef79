"""What the network has to know of every kind."""

from typing import ClassVar

from msgspec import Struct

from model.errors import SpecError


class Options(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What the network has to know of every kind.

    What is as by default is not written, so that an option that is added leaves the fingerprints of models as they are.

    Attributes:
        model: "module:class" of its interest model; empty for a kind that has none.
        attends: whether exact matches of item and category add to the logits of its attention.
        pools: whether the mean of all keys may stand beside it in the head.
    """

    model: ClassVar[str] = ""
    attends: ClassVar[bool] = False
    pools: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return str(self.__struct_config__.tag)

    @property
    def attention_dims(self) -> tuple[int, int]:
        """Widths of further embeddings of item and of category, in tables of their own; (0, 0) for none.

        Keys and targets have them behind the others: [item, category, further item, further category].
        """
        return 0, 0

    def check(self, length: int) -> None:
        """See that such a model can be built, and can read so many behaviours.

        Raises:
            SpecError: when it cannot, with what to choose instead.
        """

    def at_least(self, least: int, *names: str) -> None:
        """See that some options are no smaller than that.

        Raises:
            SpecError: when one is.
        """
        for name in names:
            if (value := getattr(self, name)) < least:
                raise SpecError(f"interest.{name} is {value}, but must be at least {least}")
