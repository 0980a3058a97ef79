"""What `[features]` may define."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from state.feature_layout import FeatureLayout
from stream.errors import SettingsError
from stream.schema.features import MAX_FEATURES, RESERVED_NAMES, FeatureDefinition

FeatureName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
_SAMPLE_BYTES = 22 * 30_000
"""Of features in a sample, which must fit into a record of Kafka."""


def check_features(features: Mapping[str, FeatureDefinition], *, candidates: int) -> None:
    """See that features can be read, and that samples with them fit into a record of Kafka.

    Args:
        features: by name.
        candidates: the most of one impression.

    Raises:
        SettingsError: names the feature, or the sizes.
    """
    if len(features) > MAX_FEATURES:
        raise SettingsError(f"features: {len(features)} of them; at most {MAX_FEATURES}")
    if taken := sorted(RESERVED_NAMES & features.keys()):
        raise SettingsError(f"features.{taken[0]}: events have a field of this name already")
    for name, definition in features.items():
        try:
            definition.feature(name)
        except ValueError as error:
            raise SettingsError(f"features.{name}: {error}") from None
    layout = layout_of(features)
    item = layout.item.itemsize
    if (total := candidates * item + layout.context.itemsize) > _SAMPLE_BYTES:
        raise SettingsError(
            f"features: {candidates} candidates of {item} bytes make samples of {total} bytes, more than the"
            f" {_SAMPLE_BYTES} that fit into a record of Kafka; lower worker.max_candidates, or have fewer features of"
            " items"
        )


def layout_of(features: Mapping[str, FeatureDefinition]) -> FeatureLayout:
    """Return how features lie in records."""
    return FeatureLayout.of(definition.feature(name) for name, definition in features.items())
