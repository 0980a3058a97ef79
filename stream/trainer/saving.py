"""How all ranks of a trainer write one checkpoint."""

from collections.abc import Callable
from pathlib import Path

from model.serialization import checkpoint
from model.serialization.checkpoint import Checkpoint
from stream.errors import TrainerError
from stream.runtime.failpoints import failpoint
from stream.trainer.arm_trainer import merged_progress
from stream.trainer.team import Team


def save_together(
    directory: Path, own: Checkpoint, team: Team, *, digest: str, keep: int, attach: Callable[[Path], None]
) -> Path:
    """Write a checkpoint, each rank its shard; one rename on the first rank makes it count. Returns its path.

    Args:
        directory: of the checkpoints, which all ranks see.
        own: what this rank has.
        team: all ranks; each calls this in the same turn.
        digest: of the dense parameters, which must be the same on all ranks.
        keep: newest checkpoints kept.
        attach: see `checkpoint.save`.

    Raises:
        CheckpointError: when it cannot be written.
        TrainerError: when the ranks' dense parameters differ.
    """
    if team.rank.ranks == 1:
        return checkpoint.save(directory, own, keep=keep, attach=attach)
    first = team.rank.number == 0
    half = directory / team.share(checkpoint.begin(directory).name.encode() if first else b"")[0].decode()
    checkpoint.write_shard(half, own, team.rank, attach=attach)
    failpoint("shard")
    digests = team.share(digest.encode())  # now all shards are on the disk
    if len(set(digests)) > 1:
        raise TrainerError(
            "the ranks' dense parameters are no longer the same, so nothing was saved: start all ranks again; they go"
            " on from the newest checkpoint. Are they of one release of samstream and torch, on processors alike?"
        )
    if first:
        failpoint("manifest")
        checkpoint.finish(half, own.epoch, team.step, team.rank.ranks, keep=keep, merge=merged_progress)
    team.share(b"")  # now it counts
    return half.with_suffix("")
