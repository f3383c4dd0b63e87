"""Private names of open_clip, read in version 3.3.0."""

from pathlib import Path

from open_clip import factory


def find_weights(folder: Path) -> Path | None:
    """Return the file of weights that ``create_model("local-dir:<folder>")`` would load.

    ``open_clip.factory._find_checkpoint_in_dir``; the order of preference is written down nowhere else.
    Source: https://github.com/mlfoundations/open_clip/blob/main/src/open_clip/factory.py

    Returns:
        None where the folder holds no weights.
    """
    found = factory._find_checkpoint_in_dir(folder)
    return None if found is None else Path(found)
