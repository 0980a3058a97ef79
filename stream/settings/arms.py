"""An arm of the experiment, as it is set."""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from model.errors import SpecError
from model.spec import ModelSpec, OptimSpec, overridden, preset
from stream.errors import SettingsError
from stream.settings.features import FeatureName
from stream.settings.limits import Name, NotNegative


class ArmSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One arm of the experiment.

    Attributes:
        name: of the arm.
        share: of the users, in proportion to the other arms' shares.
        preset: the model, such as `sam`, `sam-paper`, `din-50` or `counts`.
        model: fields of the model that differ from the preset.
        learn: whether it learns; else it keeps the parameters that it starts from.
        learn_from: whose samples it learns from: those of its `own` users (in interleaved requests: the items that it
            placed), or `all`.
        optim: step sizes and table sizes.
        features: names of those of `[features]` that its model reads, or `all`.
        interleave: two other arms. Users of this one get lists that both have drafted in turn (see
            `stream.experiment.interleaving`); it has no model of its own.
        shadow: whether it also ranks the impressions that other arms answer. Its rankings are in the scores, nobody
            sees them, and `samstream experiment evaluate` says what its click rate would be. Each costs as much as an
            answer.
    """

    name: Name
    share: NotNegative = 1.0
    preset: str = "sam"
    model: dict[str, Any] = {}
    learn: bool = True
    learn_from: Literal["own", "all"] = "own"
    optim: OptimSpec = OptimSpec()
    features: tuple[FeatureName, ...] | Literal["all"] = "all"
    interleave: tuple[Name, ...] = ()
    shadow: bool = False

    def spec(self) -> ModelSpec:
        """Return the model this arm runs, but for the features of callers: see `Settings.spec`.

        Raises:
            SettingsError: for an unknown preset or field, and for an arm that interleaves others.
        """
        if self.interleave:
            raise SettingsError(f"arm {self.name!r} interleaves {' and '.join(self.interleave)}: it has no model")
        try:
            return overridden(preset(self.preset), self.model)
        except SpecError as error:
            raise SettingsError(f"arm {self.name!r}: {error}") from None


def check_interleaved(arm: ArmSettings, models: Sequence[str]) -> None:
    """See that an arm interleaves two others that have a model, and has none itself.

    Raises:
        SettingsError: when it does not, with what to do instead.
    """
    if len(arm.interleave) != 2 or arm.interleave[0] == arm.interleave[1]:
        raise SettingsError(f"arm {arm.name!r} interleaves {list(arm.interleave)}: name two different arms")
    if unknown := [name for name in arm.interleave if name not in models]:
        raise SettingsError(f"arm {arm.name!r} interleaves {unknown}; arms with a model are {list(models)}")
    plain = ArmSettings(name=arm.name, share=arm.share, interleave=arm.interleave)
    if extra := [field for field in ArmSettings.__struct_fields__ if getattr(arm, field) != getattr(plain, field)]:
        raise SettingsError(f"arm {arm.name!r} interleaves others and has no model of its own: drop {', '.join(extra)}")
