"""The trained model in a form that plain open_clip loads, written when the run ends."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from degla.models import save_open_clip
from degla.models.adapters import FOLDER, save_adapter
from degla.training.callbacks.retention import Retention
from degla.training.module import DeGLAModule


class ExportModel(Callback):
    """Writes the student to ``dirpath`` in open_clip's ``local-dir:`` layout.

    An adapter is merged into the weights, and written alone in peft's layout to the folder ``adapter`` beside them.

    In a run with a ``Retention`` guard it writes the weights that the guard chose.

    Args:
        dirpath: folder of the model.
    """

    def __init__(self, dirpath: str):
        self.dirpath = Path(dirpath)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the weights from the ranks where they are sharded, and write them on rank 0."""
        assert isinstance(pl_module, DeGLAModule)
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set in a connector
        for guard in callbacks:
            if isinstance(guard, Retention):
                guard.choose(trainer, pl_module)
                if trainer.is_global_zero:
                    save_open_clip(pl_module.student, self.dirpath, guard.chosen_state)
                return
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: Any = get_model_state_dict(pl_module.student.clip, options=options)
        if trainer.is_global_zero:
            save_open_clip(pl_module.student, self.dirpath, state)
            if pl_module.student.lora is not None:
                save_adapter(pl_module.student.lora, state, self.dirpath / FOLDER)
