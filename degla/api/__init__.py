"""The Python API: fine-tune, evaluate and use models from a script or a notebook.

It uses the same configs, defaults and checks as the programs. Errors are exceptions from ``degla.errors``;
nothing exits, and logging is left as it was.
"""

from degla.api.evaluation import Results, evaluate
from degla.api.model import Model, load
from degla.api.training import Run, finetune

__all__ = ["Model", "Results", "Run", "evaluate", "finetune", "load"]
