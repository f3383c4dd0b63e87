"""The top-level keys of ``configs/evaluate.yaml`` and the values that they may have."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from degla.errors import ConfigError
from degla.evaluation.encoder import Precision
from degla.evaluation.schemas import first_error


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:<number>")
    return value


# The command line reads precision=32 and label=3 as numbers.
_TextOrNumber = BeforeValidator(_number_as_text)


class Settings(BaseModel):
    """Settings of one evaluation; ``configs/evaluate.yaml`` says what each is for."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    label: Annotated[str | None, _TextOrNumber]
    data_dir: str
    runs_dir: str
    cache_dir: str | None
    compare: list[str]
    report_only: bool
    doctor: bool
    precision: Annotated[Precision, _TextOrNumber]
    device: Annotated[str, AfterValidator(_device)]
    batch_size: Annotated[int, Field(ge=1)]
    num_workers: Annotated[int, Field(ge=0)]
    no_image_baseline: bool
    on_bad_image: Literal["skip", "stop"]
    max_missing: Annotated[float, Field(ge=0, le=1)]
    explorer_items: Annotated[int, Field(ge=0)]
    run_dir: str


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Return the top-level keys of the config, checked; other keys are ignored.

    Raises:
        ConfigError: a value that its key cannot have; the message names the key.
    """
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(first_error(error)) from error
