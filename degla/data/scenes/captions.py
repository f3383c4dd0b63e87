"""The English sentence of a claim."""

from degla.data.scenes.claims import Claim, Noun

# Every kind has the same number of templates, so that a negative of another kind keeps the caption's wording.
TEMPLATES = {
    "related": ("a {0} {relation} a {1}", "there is a {0} {relation} a {1}", "the {0} is {relation} the {1}"),
    "listed": ("a {0} and a {1}", "there is a {0} and a {1}", "the {0} and the {1}"),
    "without": ("a {0} but no {1}", "there is a {0} but no {1}", "the {0} but no {1}"),
    "counted": ("{count} {0}", "there {is_are} {count} {0}", "a picture of {count} {0}"),
    "several": ("several {0}", "there are several {0}", "a picture of several {0}"),
    "exists": ("a {0}", "there is a {0}", "a picture with a {0}"),
    "absent": ("no {0}", "there is no {0}", "a picture with no {0}"),
}
NUM_TEMPLATES = 3
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}

_SPOKEN_VOWEL = {*"fhlmnrsx", "hourglass"}


def caption_of(claim: Claim, template: int) -> str:
    """Return the sentence of a claim, in lower case and without a full stop.

    Args:
        claim: the content.
        template: number of the wording, below ``NUM_TEMPLATES``.
    """
    plural = claim.kind == "several" or claim.number > 1
    text = TEMPLATES[claim.kind][template].format(
        *(phrase(noun, plural) for noun in claim.nouns),
        relation=claim.relation,
        count=NUMBERS.get(claim.number, ""),
        is_are="are" if plural else "is",
    )
    article = "the" if text.startswith("the ") else "a"
    return _with_articles(" ".join([text, *(f"and {article} {phrase(noun)}" for noun in claim.nouns[2:])]))


def _with_articles(text: str) -> str:
    """Write "an" in place of "a" before a vowel, as it is spoken: an orange star, an s."""
    words = text.split()
    for i, following in enumerate(words[1:]):
        if words[i] == "a" and (following[0] in "aeio" or following in _SPOKEN_VOWEL):
            words[i] = "an"
    return " ".join(words)


def phrase(noun: Noun, plural: bool = False) -> str:
    """Return a noun phrase without its article: size, texture, colour, shape.

    Args:
        noun: the words; empty ones are left out.
        plural: put the shape in the plural.
    """
    shape = plural_of(noun.shape) if plural else noun.shape
    return " ".join(word for word in (noun.size, noun.texture, noun.colour, shape) if word)


def plural_of(shape: str) -> str:
    """Return the plural of a shape's name."""
    return f"{shape}es" if shape.endswith("s") and len(shape) > 1 else f"{shape}s"
