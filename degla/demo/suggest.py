"""Hard negatives of a caption by rule, for the page."""

from degla.data.schema import Negative
from degla.hard_negatives.checks import rejection_reason
from degla.hard_negatives.kinds import KINDS
from degla.hard_negatives.language.tagger import load_tagger
from degla.hard_negatives.rules import NoNegative, Rules


def suggest_negatives(caption: str, tagger: str = "hanta") -> list[Negative]:
    """Return one negative of each kind that the rules can write and that passes the checks of ``degla-negatives``.

    Args:
        caption: a caption that is true of the image.
        tagger: word classes; see ``load_tagger``.

    Raises:
        MissingDependencyError: the package of the tagger is not installed.
    """
    rules = Rules(tagger)
    negatives: list[Negative] = []
    for kind in sorted(KINDS, key=lambda kind: KINDS[kind].change == "order"):  # a shuffle is the easiest to notice
        try:
            texts = rules.write(caption, kind, count=1)
        except NoNegative:
            continue
        earlier = [negative.text for negative in negatives]
        negatives += [
            Negative(text, kind)
            for text in texts
            if not rejection_reason(caption, text, kind, load_tagger(tagger), earlier)
        ]
    return negatives
