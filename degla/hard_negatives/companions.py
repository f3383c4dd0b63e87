"""Texts beside the hard negatives: units of a caption with their foils (CS-CLIP), and paraphrases (READ-CLIP).

A writer answers a unit and its foil as one text, ``a small dog => a large dog``.
"""

import itertools
import random
from collections.abc import Iterator, Sequence

from degla.data.schema import Unit
from degla.hard_negatives.checks import rejection_reason
from degla.hard_negatives.language.paraphrase import is_symmetric_swap, split_numbers
from degla.hard_negatives.language.phrases import Caption, parse
from degla.hard_negatives.language.tagger import Tagger
from degla.hard_negatives.language.words import lower_words, singular
from degla.hard_negatives.rules import NoNegative, Rules

UNIT_FOIL, PARAPHRASE = "unit_foil", "paraphrase"
COLUMNS = {UNIT_FOIL: "units", PARAPHRASE: "paraphrases"}  # of the resulting dataset

_ARROW = "=>"
_RULES = ("replace_adjectives", "replace_relation", "replace_nouns", "change_count")  # for foils, in turn


class UnitRules:
    """Writes units and foils by rule: a noun phrase, or two with what lies between them, and one word replaced.

    Args:
        rules: writes the foils.
        tagger: finds the noun phrases.
    """

    def __init__(self, rules: Rules, tagger: Tagger):
        self.rules = rules
        self.tagger = tagger

    def write(self, caption: str, count: int) -> list[str]:
        """Return up to ``count`` texts ``unit => foil``.

        Args:
            caption: the original caption.
            count: how many are wanted.

        Raises:
            NoNegative: no part of the caption has a foil.
        """
        rng = random.Random(f"{self.rules.seed} {UNIT_FOIL} {caption}")
        units = list(dict.fromkeys(_units(parse(caption, self.tagger))))
        texts: list[str] = []
        for unit in rng.sample(units, len(units)):
            foil = self._foil(unit, rng)
            if foil:
                texts.append(f"{unit} {_ARROW} {foil}")
            if len(texts) == count:
                break
        if not texts:
            raise NoNegative("no part with a word that the lexicon knows")
        return texts

    def _foil(self, unit: str, rng: random.Random) -> str:
        for kind in rng.sample(_RULES, len(_RULES)):
            try:
                foils = self.rules.write(unit, kind, 1)
            except NoNegative:
                continue
            if not rejection_reason(unit, foils[0], kind, self.tagger):
                return foils[0]
        return ""


def _units(caption: Caption) -> Iterator[str]:
    """Yield the noun phrases of a caption, and each two neighbours with the words between them."""
    spans = [(phrase.start, phrase.end) for phrase in caption.phrases]
    spans += [(first[0], second[1]) for first, second in itertools.pairwise(spans)]
    for start, end in spans:
        tokens = caption.tokens[start:end]
        if 1 < len(tokens) < sum(token.is_word for token in caption.tokens):
            yield "".join(token.space + token.text for token in tokens).strip()


def text_problem(caption: str, text: str, kind: str, tagger: Tagger, earlier: Sequence[str] = ()) -> str:
    """Return why a text cannot be what its kind says; "" where it can.

    Args:
        caption: the original caption.
        text: the candidate.
        kind: of ``ALL_KINDS``.
        tagger: word classes.
        earlier: texts of this kind that were accepted for this caption before.
    """
    if kind == UNIT_FOIL:
        return unit_problem(caption, text, tagger)
    if kind == PARAPHRASE:
        return paraphrase_problem(caption, text, tagger, earlier)
    return rejection_reason(caption, text, kind, tagger, earlier)


def parse_unit(text: str) -> Unit | None:
    """Read ``unit => foil``; None where a text is of another form."""
    parts = [part.strip() for part in text.split(_ARROW)]
    return Unit(*parts) if len(parts) == 2 and all(parts) else None


def unit_problem(caption: str, text: str, tagger: Tagger) -> str:
    """Return why a text is not a unit of the caption with its foil; "" where it is one.

    Args:
        caption: the original caption.
        text: the candidate.
        tagger: word classes.
    """
    unit = parse_unit(text)
    if unit is None:
        return "wrong form: not 'unit => foil'"
    words, part = lower_words(caption), lower_words(unit.text)
    if not part or not any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1)):
        return "the unit is no part of the caption"
    if len(part) == len(words):
        return "the unit is the whole caption"
    return rejection_reason(unit.text, unit.foil, UNIT_FOIL, tagger)


def paraphrase_problem(caption: str, text: str, tagger: Tagger, earlier: Sequence[str] = ()) -> str:
    """Return why a text cannot be a paraphrase of the caption; "" where it may be one.

    Texts alone cannot show whether two mean the same. The checks find chatter, and changes that rules also make for
    hard negatives: the same words in another order, and another number.

    Args:
        caption: the original caption.
        text: the candidate.
        tagger: word classes.
        earlier: paraphrases that were accepted for this caption before.
    """
    reason = rejection_reason(caption, text, PARAPHRASE, tagger, earlier)
    if reason and not reason.startswith("paraphrase"):
        return reason
    before, after = lower_words(caption), lower_words(text)
    has_same_words = sorted(map(singular, before)) == sorted(map(singular, after))
    if has_same_words and not is_symmetric_swap(parse(caption, tagger), after):
        return "may be false: the same words in another order"
    numbers = [sorted(split_numbers(words)[0]) for words in (before, after)]
    return "may be false: another number" if numbers[0] != numbers[1] else ""
