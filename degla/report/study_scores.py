"""The scores that a study has measured so far, kept in ``measured.json`` so that a stopped study continues."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from degla.artifacts import atomic_write
from degla.report.study_schema import Scores

log = logging.getLogger(__name__)

_DIGITS = 6
_Content = TypeAdapter(dict[str, Scores])


class MeasuredScores:
    """Scores by run, weights, share and benchmark.

    Args:
        path: the file. One that cannot be read is replaced.
    """

    def __init__(self, path: Path):
        self.path = path
        self._scores: dict[str, Scores] = {}
        if path.is_file():
            try:
                self._scores = _Content.validate_json(path.read_bytes())
            except (ValidationError, OSError):
                log.warning(f"{path} cannot be read, so everything is measured again")

    def get(self, key: str) -> Scores | None:
        """Return what was measured under a key, or None."""
        return self._scores.get(key)

    def add(self, scores: Mapping[str, Scores]) -> None:
        """Add scores by key, and write the file.

        Args:
            scores: fractions; they are rounded.

        Raises:
            ValidationError: a score is not a fraction, such as nan.
        """
        rounded = {key: {name: round(value, _DIGITS) for name, value in own.items()} for key, own in scores.items()}
        self._scores |= _Content.validate_python(rounded)
        with atomic_write(self.path) as partial:
            partial.write_text(json.dumps(self._scores), encoding="utf-8")


def file_fingerprint(path: Path) -> str:
    """Return a hash of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
