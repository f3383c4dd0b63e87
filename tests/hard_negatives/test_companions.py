"""Units with foils and paraphrases: by rule, by a language model, and in the resulting dataset."""

import pyarrow.parquet as pq
import pytest

from degla.cli.compose import compose_config
from degla.errors import ConfigError
from degla.hard_negatives.companions import UnitRules, paraphrase_problem, parse_unit, unit_problem
from degla.hard_negatives.language.tagger import load_tagger
from degla.hard_negatives.language.words import lower_words
from degla.hard_negatives.rules import NoNegative, Rules
from degla.hard_negatives.writers import RuleWriter
from degla.negatives import make_negatives
from tests.helpers.llm_server import LlmServer

CAPTION = "A small dog lies on a red couch near two cups"
TAGGER = load_tagger("lexicon")


@pytest.fixture
def unit_rules():
    return UnitRules(Rules("lexicon", seed=0), TAGGER)


def test_units_are_parts_of_the_caption_with_one_word_changed(unit_rules):
    texts = unit_rules.write(CAPTION, 5)
    assert len(texts) >= 3
    for text in texts:
        unit = parse_unit(text)
        words, foil = lower_words(unit.text), lower_words(unit.foil)
        assert " ".join(words) in " ".join(lower_words(CAPTION))
        assert words != foil and unit_problem(CAPTION, text, TAGGER) == ""
    assert texts == unit_rules.write(CAPTION, 5)  # seeded


def test_a_caption_of_one_part_has_no_unit(unit_rules):
    with pytest.raises(NoNegative, match="no part with a word"):
        unit_rules.write("a dog", 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a small dog", "wrong form"),
        ("a small dog => a large dog => a dog", "wrong form"),
        ("a large dog => a small dog", "the unit is no part of the caption"),
        (f"{CAPTION} => a cat", "the unit is the whole caption"),
        ("a small dog => a small dog", "equal to the caption"),
        ("a small dog => the small dog", "paraphrase"),
    ],
)
def test_wrong_units_are_rejected(text, problem):
    assert unit_problem(CAPTION, text, TAGGER).startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (CAPTION, "equal to the caption"),
        ("A red couch lies on a small dog near two cups", "may be false: the same words"),
        ("Near three cups a small dog is lying on a couch that is red", "may be false: another number"),
        ("Sure, here is a paraphrase: A small dog lies on a couch", "refusal or chatter"),
        ("", "empty"),
        ("On a red couch near two cups a little dog is lying", ""),
    ],
)
def test_paraphrases_are_checked_as_far_as_texts_show(text, problem):
    reason = paraphrase_problem(CAPTION, text, TAGGER)
    assert reason.startswith(problem) and bool(reason) == bool(problem)


def test_rules_write_no_paraphrases():
    with pytest.raises(ConfigError, match="needs a language model: set negatives=llm"):
        RuleWriter(["paraphrase"], 1, 0, "lexicon")


def test_the_dataset_has_a_column_of_each(tmp_path, monkeypatch):
    captions = tmp_path / "captions.csv"
    captions.write_text(f"image,caption\na.jpg,{CAPTION}\nb.jpg,A man with a blue hat rides a brown horse\n")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with LlmServer() as server:
        settings = {
            "input": str(captions),
            "output": str(tmp_path / "out"),
            "kinds": ["replace_adjectives", "unit_foil", "paraphrase"],
            "negatives": {"option": "llm", "model": "m", "base_url": server.url, "tagger": "lexicon"},
        }
        cfg = compose_config("negatives", settings)
        make_negatives(cfg)
    table = pq.read_table(tmp_path / "out" / "captions.parquet").to_pylist()
    assert [len(row["negatives"]) for row in table] == [1, 1]
    assert all(row["paraphrases"] == [f"there is {row['caption']}"] for row in table)
    for row in table:
        (unit,) = row["units"]
        assert " ".join(lower_words(unit["text"])) in row["caption"].lower() and unit["foil"] != unit["text"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "unit_foil" in card and "paraphrase" in card
