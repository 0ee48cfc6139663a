"""Read DeepSpeed's files for DeepSpeed's own loader, by torch's restricted unpickler.

DeepSpeed unpickles its files without restriction: anyone who can write a checkpoint could run code in the job that
resumes from it. DeepSpeed reads only through its checkpoint engine, so this one replaces it during loading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from albef.errors import CheckpointError
from pipeline.checkpoints.deepspeed_files import MODEL_STATES, PARTITION, load_restricted
from pipeline.checkpoints.meta import USE_ANOTHER, CheckpointMeta

CLASSES: list[Any] = [LossScaler, ZeroStageEnum, fragment_address]
"""Classes that DeepSpeed pickles beside tensors at stages 0 to 2, and that its loader needs."""


class RestrictedFiles(CheckpointEngine):
    """A DeepSpeed checkpoint engine that returns this rank's files of one checkpoint, and no other file.

    Args:
        folder: the checkpoint, verified; only files that its `meta` lists are read.
    """

    def __init__(self, folder: Path, meta: CheckpointMeta, *, rank: int) -> None:
        super().__init__()
        self.name = "restricted files"
        self.folder, self.meta, self.rank = folder, meta, rank
        self.states: dict[str, Any] = {}

    def read(self) -> None:
        """Read the files that this rank needs.

        Raises: CheckpointError for a file that holds objects of other classes; `deepspeed_files.UNREADABLE` for a
            damaged or foreign one.
        """
        for name in self.meta.files:
            partition = PARTITION.fullmatch(name)
            if name == MODEL_STATES or (partition and int(partition[1]) == self.rank):
                self.states[name] = load_restricted(self.folder / name, CLASSES)

    def load_into(self, engine: Any) -> None:
        """Let DeepSpeed load the files that were read.

        Raises: CheckpointError when DeepSpeed asks for another file or finds none; DeepSpeed's own errors for files
            that do not fit the engine.
        """
        original_engine, engine.checkpoint_engine = engine.checkpoint_engine, self
        try:
            loaded, _ = engine.load_checkpoint(str(self.folder.parent), tag=self.folder.name)
        finally:
            engine.checkpoint_engine = original_engine
            self.states.clear()
        if loaded is None:
            raise CheckpointError(f"DeepSpeed cannot load {self.folder}", USE_ANOTHER)

    def load(self, path: str, map_location: Any = None) -> Any:
        """The content of a file, in host memory; `map_location` is ignored."""
        name = Path(path).name
        if name not in self.states:
            raise CheckpointError(f"{self.folder / name} is not among the checkpoint's files", "move it elsewhere")
        return self.states[name]

    def create(self, info: Any) -> None:
        """Nothing is written."""

    def save(self, state_dict: Any, path: str) -> None:
        """Nothing is written."""
        raise NotImplementedError("RestrictedFiles only reads")

    def commit(self, info: Any) -> bool:
        """Nothing is written."""
        return True
