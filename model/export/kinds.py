"""Which kinds of models can be exported as a graph, and how; one that is not named here takes any L and C."""

from collections.abc import Mapping

from model.errors import ExportError
from model.spec import ModelSpec

PADDED = frozenset(
    {
        *("eta", "sim-hard", "sim-soft", "twin", "dare", "mirrn", "longvq"),
        *("nrnm", "dman", "rnn-search", "sasrec", "hstu", "transact"),
    }
)
"""Kinds whose graph is of one L, that of the model: they choose, or cut into pieces, so many of the behaviours."""

REFUSED: Mapping[str, str] = {
    "twin-v2": "how many clusters a user's behaviours fall into depends on their content, and a graph has fixed sizes",
    "sar": "its policy chooses a length for each user, and a graph has one path for all",
    "dien": "it walks the sequence behaviour by behaviour, as often as there are some, and a graph has no such loop",
    "mimn": "it writes the sequence into a memory behaviour by behaviour, and a graph has no such loop",
    "random": "it hashes requests and learns nothing: there is nothing to export",
}
"""Kind → why it is no graph."""


def fixed_length(spec: ModelSpec) -> int | None:
    """Return the L that a model's graph has; None for one that takes any.

    Raises:
        ExportError: for a kind that is no graph; says why.
    """
    if (why := REFUSED.get(spec.kind)) is not None:
        raise ExportError(
            f"kind {spec.kind!r} cannot be exported as a graph: {why}. --format safetensors writes its parameters"
        )
    return spec.length if spec.kind in PADDED else None
