"""Numbers out of range are refused by their key, before data or weights are loaded."""

import inspect
import re
from typing import Annotated, get_args, get_origin

import pytest

from degla.bounds import Bound, type_hints
from degla.cli.targets import find_target, own_constructors
from degla.data.datamodule import DataModule
from degla.data.sources import folder, huggingface, scenes, scenes_and_general
from degla.errors import ConfigError
from degla.models import load_clip
from tests.conftest import TINY, degla


@pytest.fixture(scope="module")
def student():
    return load_clip("degla-tiny")


OUT_OF_RANGE = [
    ("global_batch_size", 0, "a whole number of 1 or more"),
    ("global_batch_size", 2.5, "a whole number of 1 or more"),
    ("epochs", 0, "a whole number of 1 or more"),
    ("epochs", True, "a whole number of 1 or more"),
    ("num_negatives", -1, "a whole number of 0 or more"),
    ("negatives", "last", "one of first, random, one_per_type"),
    ("crop_scale", [0, 0], "two shares of the area"),
    ("crop_scale", [0.9, 0.5], "two shares of the area"),
    ("crop_scale", [0.9], "two shares of the area"),
    ("crop_scale", [0.5, 1.5], "two shares of the area"),
    ("val_fraction", 2, "a number of 0 or more and less than 1"),
    ("val_fraction", 1.0, "a number of 0 or more and less than 1"),
    ("max_val_rows", 0, "a whole number of 1 or more"),
    ("val_batch_size", -4, "a whole number of 1 or more"),
    ("max_image_pixels", 10**12, "a whole number from 1 to 178956970"),
    ("max_image_aspect", 0.5, "a number of 1 or more"),
    ("max_bad_fraction", 1.5, "a number from 0 to 1"),
    ("max_bad_fraction", float("nan"), "a number from 0 to 1"),
    ("chunk_size", 0, "a whole number of 1 or more, or null"),
    ("num_workers", -1, "a whole number of 0 or more"),
    ("seed", -1, "a whole number from 0 to 4294967295"),
]


@pytest.mark.parametrize(("key", "value", "words"), OUT_OF_RANGE)
def test_numbers_of_the_loader(student, photo_folder, key, value, words):
    settings = {"global_batch_size": 4, key: value}
    with pytest.raises(ConfigError) as refusal:
        DataModule(folder(str(photo_folder)), student.tokenizer, (64, 64), student.preprocess, **settings)
    assert str(refusal.value).startswith(f"loader.{key}={value} must be {words}")


def is_bounded(hint) -> bool:
    if get_origin(hint) is Annotated:
        return any(isinstance(part, Bound) for part in get_args(hint))
    return any(is_bounded(part) for part in get_args(hint))


CONSTRUCTORS = sorted(path for path in own_constructors() if not path.startswith("degla.losses."))


@pytest.mark.parametrize("path", CONSTRUCTORS)
def test_every_number_of_a_constructor_is_bounded(path):
    constructor = find_target(path, "test")
    hints = type_hints(constructor)
    config_keys = {p.name for p in inspect.signature(constructor).parameters.values() if p.default is not p.empty}
    numbers = {name for name in config_keys if re.search(r"\b(int|float)\b", str(hints.get(name)))}
    assert not [name for name in numbers if not is_bounded(hints[name])]


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (scenes, {"num_scenes": 0}, "data.num_scenes=0 must be a whole number of 1 or more"),
        (scenes, {"split": "dev"}, "data.split=dev must be one of train, validation, test"),
        (scenes, {"layouts": ["heap"]}, "data.layouts=.* must be a list of some of pair"),
        (scenes, {"layouts": []}, "data.layouts=.* must be a list of some of pair"),
        (scenes, {"detail": 1.5}, "data.detail=1.5 must be a number from 0 to 1"),
        (scenes, {"image_size": 4}, "data.image_size=4 must be a whole number from 8 to 4096"),
        (scenes, {"seed": -1}, "data.seed=-1 must be a whole number from 0 to 4294967295"),
        (scenes_and_general, {"general_fraction": -0.1}, "data.general_fraction=-0.1 must be a number from 0 to 1"),
        (huggingface, {"path": "parquet", "shuffle_buffer": 0}, "data.shuffle_buffer=0 must be a whole number of 1"),
    ],
)
def test_numbers_of_sources(source, settings, message):
    with pytest.raises(ConfigError, match=message):
        source(**settings)


def test_a_program_refuses_them_before_it_looks_for_data(tmp_path):
    result = degla(*TINY, "data=folder", "data.path=/no/such/folder", "loader.epochs=0", cwd=tmp_path, check=False)
    assert result.returncode == 2 and "loader.epochs=0 must be a whole number of 1 or more" in result.stderr
