"""The word class of each word of a caption: by HanTa, by an installed spaCy model, or by the lexicon alone."""

from collections.abc import Callable, Sequence
from functools import cache

from degla.errors import ConfigError, MissingDependencyError
from degla.hard_negatives.language.lexicon import lexicon
from degla.hard_negatives.language.words import singular

# Takes the words and punctuation marks of one caption. Returns one class for each of them: noun (singular), nouns
# (plural), proper, adjective, number, determiner, verb or other.
Tagger = Callable[[Sequence[str]], list[str]]

_HANTA_CLASSES = {
    "NN1": "noun", "NN0": "noun", "NN2": "nouns", "NP0": "proper", "AJ0": "adjective", "CRD": "number",
    "AT0": "determiner", "DPS": "determiner", "DT0": "determiner",
}  # fmt: skip
_SPACY_CLASSES = {
    "NN": "noun", "NNS": "nouns", "NNP": "proper", "NNPS": "proper", "JJ": "adjective", "CD": "number",
    "DT": "determiner", "PRP$": "determiner",
}  # fmt: skip
_CLASSES = frozenset({"noun", "nouns", "proper", "adjective", "number", "determiner", "verb"})
_MAX_WORD_LENGTH = 40  # letters that HanTa sees
_DETERMINERS = frozenset(
    ["a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "my", "your", "our", "some"]
)


@cache
def load_tagger(name: str = "hanta") -> Tagger:
    """Return a tagger by name.

    Args:
        name: ``hanta`` (about 2000 captions per second), ``lexicon`` (needs no package, but classifies only words of
            the lexicon), or the name of an installed spaCy model.

    Raises:
        ConfigError: ``name`` is not an installed spaCy model.
        MissingDependencyError: HanTa is not installed.
    """
    if name == "lexicon":
        return _tag_by_lexicon
    return _hanta_tagger() if name == "hanta" else _spacy_tagger(name)


def _hanta_tagger() -> Tagger:
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError as error:
        raise MissingDependencyError.for_extra(
            "negatives.tagger=hanta needs HanTa (negatives.tagger=lexicon needs no package)", "negatives"
        ) from error
    tag_sentence = HanoverTagger("morphmodel_en.pgz").tag_sent

    def tag(words: Sequence[str]) -> list[str]:
        # Verb tags vary in their ends ("VVB", "VBZ"), so an unlisted tag is shortened to its first letter.
        # HanTa takes quadratic time in the length of a word: seconds for a word of 600 letters.
        short_words = [word[:_MAX_WORD_LENGTH] for word in _lowercase_first_word(words)]
        tags = (tag for _, _, tag in tag_sentence(short_words))
        return _correct_classes(words, [_HANTA_CLASSES.get(tag, tag[:1]) for tag in tags])

    return tag


def _spacy_tagger(name: str) -> Tagger:
    try:
        import spacy

        model = spacy.load(name, disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"negatives.tagger={name} is not an installed spaCy model; install it, or set hanta or lexicon"
        ) from error

    def tag(words: Sequence[str]) -> list[str]:
        tags = (token.tag_ for token in model(spacy.tokens.Doc(model.vocab, words=list(words))))
        return _correct_classes(words, [_SPACY_CLASSES.get(tag, tag[:1]) for tag in tags])

    return tag


def _lowercase_first_word(words: Sequence[str]) -> list[str]:
    """Return the words with the first in lower case, because HanTa takes a capitalized word for a name."""
    first = words[0]
    return [first.lower() if first[1:].islower() or len(first) == 1 else first, *words[1:]]


def _correct_classes(words: Sequence[str], classes: list[str]) -> list[str]:
    """Correct a tagger's classes by the lexicon, and map all classes that the rules do not use to ``other``."""
    corrected = []
    for i, (word, word_class) in enumerate(zip((word.lower() for word in words), classes, strict=True)):
        if word in _DETERMINERS:
            word_class = "determiner"
        elif word_class == "V":
            word_class = "verb"
        elif word_class not in _CLASSES:
            word_class = "other"
        is_only_adjective = word in lexicon().adjectives and word not in lexicon().nouns
        if is_only_adjective and word_class in ("noun", "proper", "verb"):
            following = classes[i + 1] if i + 1 < len(classes) else ""
            word_class = "adjective" if following in ("noun", "nouns", "adjective", "AJ0") else word_class
        corrected.append(word_class)
    return corrected


def _tag_by_lexicon(words: Sequence[str]) -> list[str]:
    return [_class_in_lexicon(word.lower()) for word in words]


def _class_in_lexicon(word: str) -> str:
    if word in _DETERMINERS:
        return "determiner"
    if word in lexicon().numbers:
        return "number"
    if word in lexicon().nouns:
        return "noun"
    if word in lexicon().adjectives:
        return "adjective"
    return "nouns" if singular(word) in lexicon().nouns else "other"
