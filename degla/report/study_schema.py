"""The form of ``study.json``, format 2."""

import json
from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Scores = dict[str, Score]  # sub-task or mean -> accuracy
Setting = dict[str, str | int | float | bool | None]  # short config key -> value
Share = Annotated[float, Field(gt=0, le=1)]  # of the fine-tuned weights; the base model is not a mixture
Retention = Annotated[float, Field(gt=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Point(_Part):
    """The scores of a run at one share of its weights."""

    share: Share
    scores: Scores


class Run(_Part):
    """A finished run: what was trained, what it cost, and what was measured."""

    run: str  # its folder, relative to that of all runs
    method: str
    setting: Setting
    seed: int
    steps: int | None
    minutes: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None  # of training; None where it is not known
    validation: list[Point]  # at every share
    test: list[Point] = []  # at the shares of the candidates that the study reports

    @property
    def label(self) -> str:
        """The setting as text."""
        return setting_label(self.setting)


class Choice(_Part):
    """The candidate of a method that was chosen at one level of retention."""

    retention: Retention
    setting: str  # as text; "" for the base model
    share: Annotated[float, Field(ge=0, le=1)]  # 0 for the base model


class Base(_Part):
    """The model that every run started from."""

    model: dict[str, Any]  # its settings
    fingerprint: str
    validation: Scores
    test: Scores


class StudyRecord(_Part):
    """Everything that tables and plots of a study are made from.

    The runs with their validation scores are the log of the search.
    """

    format: Literal[2] = 2
    provenance: dict[str, Any]
    metric: str  # the score that is maximised
    retain: str  # the score that must not fall
    retentions: Annotated[list[Retention], Field(min_length=1)]
    shares: list[Share]
    reference: str  # the method that is compared with every other
    panels: dict[str, list[str]]  # question -> methods
    subtasks: list[str]
    base: Base
    runs: Annotated[list[Run], Field(min_length=1)]
    chosen: dict[str, list[Choice]]  # method -> one choice per level of retention
    hypervolume: dict[str, dict[int, float]]  # method -> seed -> area

    @model_validator(mode="after")
    def _check_scores(self) -> "StudyRecord":
        """Check what the measure relies on, so that a gap is found here and not in the middle of a table."""
        if self.reference not in {run.method for run in self.runs}:
            raise ValueError(f"reference {self.reference} is not a method of the runs")
        if repeated := [name for name, count in Counter(run.run for run in self.runs).items() if count > 1]:
            raise ValueError(f"{repeated[0]} is in it twice")
        if len({(run.method, run.label, run.seed) for run in self.runs}) < len(self.runs):
            raise ValueError("two runs have the same method, setting and seed")
        measured = [("the base model, validation", self.base.validation), ("the base model, test", self.base.test)]
        for run in self.runs:
            if [point.share for point in run.validation] != self.shares:
                raise ValueError(f"{run.run} is not measured at every share")
            measured += [(f"{run.run}, validation", point.scores) for point in run.validation]
            measured += [(f"{run.run}, test", point.scores) for point in run.test]
        for place, scores in measured:
            wanted = [self.metric, self.retain, *(self.subtasks if place.endswith("test") else [])]
            if missing := [name for name in wanted if name not in scores]:
                raise ValueError(f"{place}: the score {missing[0]} is missing")
        if 0 in (self.base.validation[self.retain], self.base.test[self.retain]):
            raise ValueError(f"the base model's {self.retain} is 0, so nothing can be retained")
        return self


def setting_label(setting: Setting) -> str:
    """Return a setting as text, such as ``lr=0.001, objective.igc=1``."""
    return ", ".join(f"{key}={_shown(value)}" for key, value in setting.items())


def _shown(value: str | int | float | bool | None) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
