"""The trained model in a form that plain open_clip loads, written when the run ends."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from degla.models import save_open_clip
from degla.training.module import DeGLAModule


class ExportModel(Callback):
    """Writes the student to ``dirpath`` in open_clip's ``local-dir:`` layout.

    Args:
        dirpath: folder of the model.
    """

    def __init__(self, dirpath: str):
        self.dirpath = Path(dirpath)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the weights from the ranks where they are sharded, and write them on rank 0."""
        assert isinstance(pl_module, DeGLAModule)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: Any = get_model_state_dict(pl_module.student.clip, options=options)
        if trainer.is_global_zero:
            save_open_clip(pl_module.student, self.dirpath, state)
