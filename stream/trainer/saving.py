"""How all ranks of a trainer write one checkpoint, and take it up again."""

import secrets
from collections.abc import Callable
from pathlib import Path

from model.errors import CheckpointError
from model.serialization import checkpoint
from model.serialization.checkpoint import Checkpoint, NewestCheckpoint
from stream.errors import TrainerError
from stream.runtime.failpoints import failpoint
from stream.trainer.resume import load_checkpoint
from stream.trainer.team import Team
from stream.trainer.training import merged_progress

_TOKEN = "ranks"


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


def load_together(directory: Path, team: Team) -> NewestCheckpoint:
    """Return the newest whole checkpoint, the same on all ranks; the first one sets damaged ones aside.

    Raises:
        CheckpointError: when no checkpoint is whole though there are some.
        TrainerError: when the ranks do not see the same directory.
    """
    if team.rank.ranks == 1:
        return load_checkpoint(directory)
    _check_directory(directory, team)
    if team.rank.number == 0:
        found = load_checkpoint(directory, team.rank)
        team.share(found.path.name.encode() if found.path else b"")
        return found
    name = team.share(b"")[0].decode()
    if not name:
        return NewestCheckpoint(None, [])
    path = directory / name
    return NewestCheckpoint(checkpoint.load(path, team.rank), [], path)


def _check_directory(directory: Path, team: Team) -> None:
    path, token = directory / _TOKEN, secrets.token_hex(8)
    if team.rank.number == 0:
        try:
            path.write_text(token)
        except OSError as error:
            raise CheckpointError(f"cannot write to {directory}: {error}") from None
    expected = team.share(token.encode())[0].decode()
    if not path.is_file() or path.read_text() != expected:
        raise TrainerError(
            f"rank {team.rank.number} does not see the trainer.directory of rank 0 ({directory}): give all ranks one on"
            " a file system that they share"
        )
