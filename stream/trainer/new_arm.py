"""Puts an arm that is new into the newest checkpoint, with what another arm has learned; the trainer must not run."""

from dataclasses import replace
from pathlib import Path

from model.errors import CheckpointError
from model.serialization import checkpoint
from model.warm_start import WarmStart, warm_start
from stream.errors import TrainerError
from stream.settings import ArmSettings, Settings
from stream.trainer.arm_trainer import ArmTrainer
from stream.trainer.resume import load_checkpoint, resume_arm

_REMEDY = "stop it (SIGTERM: it saves what it has learned), run this again, and start it again"


def add_arm(settings: Settings, name: str, source: str) -> tuple[Path, WarmStart]:
    """Write a checkpoint in which one more arm begins with what another one has learned.

    All else is as in the newest checkpoint: positions, recent ids and the other arms, so a trainer that starts goes on
    from it as from any other. The new arm's metrics begin at nothing.

    Args:
        settings: the configuration, with both arms.
        name: of the new arm.
        source: the arm that has learned.

    Returns:
        The checkpoint, and what was taken over.

    Raises:
        TrainerError: when the arms are not those of this trainer, the source has no checkpoint, the new arm has one, or
            nothing of the source fits.
        CheckpointError: when a trainer is running, or the checkpoint cannot be read, taken up or written.
    """
    new, learned = (_arm(settings, each) for each in (name, source))
    directory = Path(settings.trainer.directory)
    if settings.trainer.arms and name not in settings.trainer.arms:
        raise TrainerError(f"the trainer of {directory} does not train arm {name!r}: add it to trainer.arms")
    if not directory.is_dir():
        raise TrainerError(f"there are no checkpoints in {directory}: is it the trainer's directory, on this machine?")
    with checkpoint.sole_writer(directory, _REMEDY):
        found = load_checkpoint(directory)
        saved = found.checkpoint
        if saved is None or source not in saved.arms:
            has = f"; it has {', '.join(saved.arms)}" if saved else ""
            raise TrainerError(f"arm {source!r} has no checkpoint in {directory}{has}")
        if name in saved.arms:
            raise TrainerError(
                f"arm {name!r} is in checkpoint {found.path} already, and would lose what it has learned: choose a name"
                " that no arm has had"
            )
        theirs, ours = (ArmTrainer(arm, settings, device="cpu") for arm in (learned, new))
        resume_arm(source, theirs, saved.arms[source], found.path, settings)
        started = warm_start(theirs.learner.state(), settings.spec(learned), ours.learner.state(), settings.spec(new))
        if not started.rows and not started.kept and not started.partly:
            raise TrainerError(
                f"nothing that arm {source!r} has learned fits arm {name!r}: its tables have other widths, and its"
                " layers other names or shapes. Without this, the trainer starts the arm afresh by itself"
            )
        try:
            ours.learner.load_state(started.state)
        except CheckpointError as error:
            raise TrainerError(f"arm {name!r} cannot take over what {source!r} has learned: {error}") from None
        arms = {**saved.arms, name: ours.save()}
        path = checkpoint.save(directory, replace(saved, arms=arms), keep=settings.trainer.checkpoints_kept)
    return path, started


def _arm(settings: Settings, name: str) -> ArmSettings:
    models = {arm.name: arm for arm in settings.models}
    if name not in models:
        raise TrainerError(
            f"the settings have no arm {name!r} with a model of its own; they have {', '.join(models)}. Both arms must"
            " be there, as the trainer will have them; one that gets no users has share=0"
        )
    return models[name]
