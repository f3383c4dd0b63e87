"""DeGLA: fine-tune CLIP on hard negative captions without losing its zero-shot ability.

The Python API is ``degla.finetune``, ``degla.evaluate`` and ``degla.load`` (``degla.api``). It is imported when it is
first used: ``import degla``, ``degla-train --help`` and shell completion must not wait for torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from degla.api import Model, Results, Run, evaluate, finetune, load

__version__ = "0.1.0"
__all__ = ["Model", "Results", "Run", "__version__", "evaluate", "finetune", "load"]

_OF_THE_API = ("Model", "Results", "Run", "finetune", "load")


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        # The program degla/evaluate.py has the same name, and Python sets it as an attribute here whenever anything
        # imports it. So `degla.evaluate` is always that module, which can be called and then is the API's function.
        import importlib

        return importlib.import_module("degla.evaluate")
    if name in _OF_THE_API:
        from degla import api

        return getattr(api, name)
    raise AttributeError(f"module 'degla' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
