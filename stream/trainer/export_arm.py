"""Exports an arm of a checkpoint for other servers."""

from pathlib import Path
from typing import Any

from model.errors import ExportError
from model.export.write import Counted, Format, export
from model.serialization import checkpoint
from model.statistics.primary import STATISTICS
from stream.errors import TrainerError
from stream.settings import Settings
from stream.trainer.arm_trainer import ArmTrainer, diverged
from stream.trainer.resume import resume_arm


def export_arm(
    settings: Settings, name: str, directory: Path, format_: Format, path: Path | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write what an arm serves into a new folder. A trainer may be running.

    Args:
        settings: the configuration, with the arm as the trainer has it.
        name: of the arm.
        directory: the folder; it must not exist, or be empty.
        format_: of the model.
        path: of the checkpoint; None for the newest whole one.

    Returns:
        The checkpoint that was taken, and what `export.json` says.

    Raises:
        TrainerError: when the settings or the checkpoint have no such arm, or there is no checkpoint.
        CheckpointError: when the checkpoint is damaged, or of another model than the settings say.
        ExportError: when the arm has diverged, or the model cannot be exported or written.
    """
    models = {arm.name: arm for arm in settings.models}
    if name not in models:
        raise TrainerError(f"the settings have no arm {name!r} with a model of its own; they have {', '.join(models)}")
    trainer_directory = Path(settings.trainer.directory)
    if path is None:
        found = checkpoint.load_newest(trainer_directory)
        if found.checkpoint is None or found.path is None:
            why = f": the newest, {found.refused[0].reason}" if found.refused else ""
            raise TrainerError(f"there is no whole checkpoint in {trainer_directory}{why}; name one with --checkpoint")
        path, saved = found.path, found.checkpoint
    else:
        saved = checkpoint.load(path)
    if name not in saved.arms:
        raise TrainerError(f"arm {name!r} is not in checkpoint {path}; it has {', '.join(saved.arms)}")
    arm, state = models[name], saved.arms[name]
    if why := diverged(state):
        raise ExportError(f"arm {name!r} has diverged in checkpoint {path}: {why}")
    trainer = ArmTrainer(arm, settings, device="cpu")
    resume_arm(name, trainer, state, path, settings)
    counts = saved.arms.get(STATISTICS)
    counted = Counted(counts.tensors, settings.statistics_length) if counts else None
    update = trainer.learner.base(name)
    return path, export(update, settings.spec(arm), settings.seed, directory, format_, counted)
