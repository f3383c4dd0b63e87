"""The result of a comparison in one sentence, for the console and the page."""

from collections.abc import Mapping, Sequence

from degla.demo.scores import Scores


def headline(scores: Mapping[str, Scores], captions: Sequence[str]) -> str:
    """Return which caption each model prefers.

    Args:
        scores: role -> scores of the captions.
        captions: the texts.
    """
    if len(captions) == 1:
        cosines = " and ".join(f"{values.cosines[0]:.3f} by the {role} model" for role, values in scores.items())
        return f"The caption has the cosine {cosines}; a second caption shows which of them fits better."
    choices = {role: captions[int(values.cosines.argmax())] for role, values in scores.items()}
    if len(choices) == 1:
        return f"The model prefers '{next(iter(choices.values()))}'."
    if len(set(choices.values())) == 1:
        return f"Both models prefer '{next(iter(choices.values()))}'."
    return " ".join(f"The {role} model prefers '{caption}'." for role, caption in choices.items())
