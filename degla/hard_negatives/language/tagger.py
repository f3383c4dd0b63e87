"""Which words are nouns and adjectives: HanTa, any installed spaCy model, or the lexicon alone."""

from collections.abc import Callable, Sequence
from functools import cache

from degla.errors import ConfigError
from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.words import singular

# words and marks of one caption -> for each of them noun, nouns, proper, adjective, number, determiner, verb or other
Tag = Callable[[Sequence[str]], list[str]]

_HANTA = {
    "NN1": "noun", "NN0": "noun", "NN2": "nouns", "NP0": "proper", "AJ0": "adjective", "CRD": "number",
    "AT0": "determiner", "DPS": "determiner", "DT0": "determiner",
}  # fmt: skip
_SPACY = {
    "NN": "noun", "NNS": "nouns", "NNP": "proper", "NNPS": "proper", "JJ": "adjective", "CD": "number",
    "DT": "determiner", "PRP$": "determiner",
}  # fmt: skip
_DETERMINERS = frozenset(
    ["a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "my", "your", "our", "some"]
)


@cache
def tagger(name: str = "hanta") -> Tag:
    """A tagger by name.

    Args:
        name: ``hanta`` (2000 captions a second), ``lexicon`` (only words that the rules know, nothing to install),
            or the name of an installed spaCy model.

    Raises:
        ConfigError: it is not installed.
    """
    if name == "lexicon":
        return _by_lexicon
    if name == "hanta":
        try:
            from HanTa.HanoverTagger import HanoverTagger
        except ImportError as error:
            raise ConfigError(
                "negatives.tagger=hanta needs pip install 'degla[negatives]'; or set it to lexicon"
            ) from error
        tag = HanoverTagger("morphmodel_en.pgz").tag_sent
        return lambda words: _corrected(words, [_HANTA.get(found, found[:1]) for _, _, found in tag(_calm(words))])
    try:
        import spacy

        model = spacy.load(name, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"negatives.tagger={name} is no installed spaCy model; or set it to hanta or lexicon"
        ) from error
    return lambda words: _corrected(
        words,
        [_SPACY.get(token.tag_, token.tag_[:1]) for token in model(spacy.tokens.Doc(model.vocab, words=list(words)))],
    )


def _calm(words: Sequence[str]) -> list[str]:
    """Without the capital of the first word, which taggers take for a name."""
    return [words[0].lower() if words[0][1:].islower() or len(words[0]) == 1 else words[0], *words[1:]]


def _corrected(words: Sequence[str], classes: list[str]) -> list[str]:
    """What the lexicon knows better, and every other class under one of our names."""
    known = lexicon()
    fixed = []
    for i, (word, kind) in enumerate(zip((word.lower() for word in words), classes, strict=True)):
        if word in _DETERMINERS:
            kind = "determiner"
        elif kind == "V":
            kind = "verb"
        elif kind not in _NAMES:
            kind = "other"
        if word in known.adjectives and word not in known.nouns and kind in ("noun", "proper", "verb"):
            following = classes[i + 1] if i + 1 < len(classes) else ""
            kind = "adjective" if following in ("noun", "nouns", "adjective", "AJ0") else kind
        fixed.append(kind)
    return fixed


_NAMES = frozenset({"noun", "nouns", "proper", "adjective", "number", "determiner", "verb"})


def _by_lexicon(words: Sequence[str]) -> list[str]:
    known = lexicon()
    classes = []
    for word in (word.lower() for word in words):
        if word in _DETERMINERS:
            kind = "determiner"
        elif word in known.numbers:
            kind = "number"
        elif word in known.nouns:
            kind = "noun"
        elif word in known.adjectives:
            kind = "adjective"
        elif singular(word) in known.nouns:
            kind = "nouns"
        else:
            kind = "other"
        classes.append(kind)
    return classes
