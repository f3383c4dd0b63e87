"""Writing a model so that ``sentence_transformers.SentenceTransformer`` loads it.

The layout has a ``modules.json`` with the modules in order, and one folder for each module that has files. It is
written without the package ``sentence-transformers``.
"""

import json
from pathlib import Path

from degla.models.clip import ClipModel
from degla.models.hf import save_hf

_CLIP_FOLDER = "0_CLIPModel"
# Every version of the package loads modules by these names. The second one divides features by their norm.
_MODULES = [("sentence_transformers.models.CLIPModel", _CLIP_FOLDER),
            ("sentence_transformers.models.Normalize", "1_Normalize")]  # fmt: skip


def save_sentence_transformers(model: ClipModel, folder: Path) -> Path:
    """Write model, tokenizer and image processor as a ``SentenceTransformer`` that encodes images and texts.

    Args:
        model: on the CPU.
        folder: is created.

    Returns:
        ``folder``.

    Raises:
        ConfigError: transformers has no class for this architecture.
        MissingDependencyError: transformers is not installed.
    """
    save_hf(model, folder / _CLIP_FOLDER)
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": kind} for number, (kind, path) in enumerate(_MODULES)
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2), encoding="utf-8")
    return folder
