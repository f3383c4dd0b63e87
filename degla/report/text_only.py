"""The record of a run's text-only baseline, ``text_only.json``: what the validation metrics are without the images."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from degla.report.run_json import read_record, write_record

_FILE = "text_only.json"  # in the folder of the run


class TextOnlyScore(BaseModel):
    """One validation metric, without the images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: float | None = Field(ge=0, le=1)  # None where there are too few pairs to train on
    count: int = Field(ge=0)  # captions, pairs, or images to choose from


class TextOnlyRecord(BaseModel):
    """The baseline of a run: metric, such as ``caption_choice/swap_nouns``, -> score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: dict[str, TextOnlyScore]

    def cell(self, metric: str) -> str:
        """Return a metric's baseline in percent, for a table; "" where there is none."""
        score = self.scores.get(metric)
        return "" if score is None or score.accuracy is None else f"{100 * score.accuracy:.1f}"


def write_text_only(run_dir: Path, record: TextOnlyRecord) -> None:
    """Write the record into the folder of the run.

    Args:
        run_dir: folder of the run.
        record: the baseline.
    """
    write_record(run_dir / _FILE, record)


def read_text_only(run_dir: Path) -> TextOnlyRecord | None:
    """Return the record of a run, or None if there is none that this release can read."""
    return read_record(run_dir / _FILE, TextOnlyRecord)
