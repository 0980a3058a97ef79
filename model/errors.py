"""What can go wrong in `model`, as exceptions whose text says what to do."""


class ModelError(Exception):
    """Base of every error that the package raises on purpose."""


class SpecError(ModelError, ValueError):
    """A model specification names something that does not exist or contradicts itself."""


class UpdateRefused(ModelError):  # noqa: N818  a refusal is an ordinary outcome
    """A parameter update was not applied; the parameters served before stay.

    Attributes:
        reason: one word for counting: "malformed", "size", "fingerprint", "shape", "non-finite", "failed", "stale"
            or "gap".
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class CheckpointError(ModelError):
    """A checkpoint is damaged, of an unknown format, or of another model than the one to be restored."""


class PeerError(ModelError):
    """Another rank ended or fell silent, or is another job's: the whole job ends, and goes on from its checkpoint."""


class ExportError(ModelError):
    """A model cannot be written in a form that other programs run; says why."""
