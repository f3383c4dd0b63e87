"""Checks an English caption against a list of things, with no code of the module that writes captions."""

import itertools
import re

COLOURS = "red|green|blue|yellow|purple|white|orange|cyan"
KINDS = "circle|square|triangle|star|cross|heart|moon|house|k|m|s|z"
NOUN = (
    rf"\b((?:small |large )?(?:plain |striped |dotted |chequered )?(?:(?:{COLOURS}) )?"
    rf"(?:{KINDS})(?:es|s)?)\b"
)
FORMS = {
    "related": re.compile(
        rf"^(?:there is )?(?:an?|the) {NOUN} (?:is )?(left of|right of|above|below|in front of|behind)"
        rf" (?:an?|the) {NOUN}$"
    ),
    "without": re.compile(rf"^(?:there is )?(?:an?|the) {NOUN} but no {NOUN}$"),
    "listed": re.compile(rf"^(?:there is )?(?:an?|the) {NOUN}(?: and (?:an?|the) {NOUN})+$"),
    "number": re.compile(rf"^(?:there is |there are |a picture of )?(one|two|three|four|several) {NOUN}$"),
    "absent": re.compile(rf"^(?:there is |a picture with )?no {NOUN}$"),
    "exists": re.compile(rf"^(?:there is |a picture with )?an? {NOUN}$"),
}


def form_of(text):
    """Name of the form and its match; a text of no form is no English of this world."""
    for name, pattern in FORMS.items():
        match = pattern.match(text)
        if match:
            return name, match
    raise AssertionError(f"cannot read {text!r}")


def is_true(text, things):
    name, match = form_of(text)
    if name == "related":
        first, relation, second = match.groups()
        pairs = [(a, b) for a in matching(first, things) for b in matching(second, things) if a != b]
        return any(placed(relation, a, b) for a, b in pairs)
    if name == "listed":
        options = [matching(noun, things) for noun in re.findall(NOUN, text)]
        return any(len(set(chosen)) == len(chosen) for chosen in itertools.product(*options))
    if name == "number":
        found = len(matching(match.group(2), things))
        word = match.group(1)
        assert bool(re.search(rf"\b({KINDS.replace('cross', 'crosse')})s$", match.group(2))) == (word != "one")
        return found > 1 if word == "several" else found == {"one": 1, "two": 2, "three": 3, "four": 4}[word]
    counts = [len(matching(noun, things)) for noun in re.findall(NOUN, text)]
    return {
        "without": lambda: counts[0] > 0 and counts[1] == 0,
        "absent": lambda: counts[0] == 0,
        "exists": lambda: counts[0] > 0,
    }[name]()


def matching(phrase, things):
    words = [re.sub(rf"^({KINDS})(es|s)$", r"\1", word) for word in phrase.split()]
    return [t for t in things if set(words) <= {t.shape, t.colour, t.size, t.texture}]


def placed(relation, a, b):
    return {
        "left of": a.x + 0.2 < b.x,
        "right of": a.x > b.x + 0.2,
        "above": a.y + 0.2 < b.y,
        "below": a.y > b.y + 0.2,
        "in front of": a.depth > b.depth,
        "behind": a.depth < b.depth,
    }[relation]
