"""Reading DeepSpeed's files for DeepSpeed's own loader, by torch's restricted unpickler.

DeepSpeed unpickles its files freely: whoever can write a checkpoint could run code in the job that resumes from it. All
its reads go through the engine's checkpoint engine, so this one stands in while it loads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from albef.errors import CheckpointError
from pipeline.checkpoint_meta import USE_ANOTHER, CheckpointMeta
from pipeline.deepspeed_files import MODEL_STATES, PARTITION, load_restricted

CLASSES: list[Any] = [LossScaler, ZeroStageEnum, fragment_address]
"""What DeepSpeed pickles beside tensors at stages 0 to 2, which its loader wants back as it was."""


class RestrictedFiles(CheckpointEngine):
    """A DeepSpeed checkpoint engine that gives out this rank's files of one checkpoint, and no other file.

    Args:
        folder: the checkpoint, verified; only files that its `meta` lists are read.
    """

    def __init__(self, folder: Path, meta: CheckpointMeta, *, rank: int) -> None:
        super().__init__()
        self.name = "restricted files"
        self.folder, self.meta, self.rank = folder, meta, rank
        self.states: dict[str, Any] = {}

    def read(self) -> None:
        """Read what this rank needs.

        Raises: CheckpointError for a file that holds objects of other classes; `deepspeed_files.UNREADABLE` for one
            that is no such file.
        """
        for name in self.meta.files:
            partition = PARTITION.fullmatch(name)
            if name == MODEL_STATES or (partition and int(partition[1]) == self.rank):
                self.states[name] = load_restricted(self.folder / name, CLASSES)

    def load_into(self, engine: Any) -> None:
        """Let DeepSpeed load what was read.

        Raises: CheckpointError when DeepSpeed asks for another file or finds none; what it raises for files that do not
            fit the engine.
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
        """What was read of a file; it lies in host memory, wherever DeepSpeed wants it mapped."""
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
