"""The choice of a sample's further texts for a step: units with foils, a paraphrase, a second caption.

Every choice has a random generator of its own. So crops and negatives stay the same whether these texts are needed or
not.
"""

import random
from collections.abc import Collection, Sequence
from typing import TypeVar

from degla.data.identity import normalized
from degla.data.schema import Sample, TokenizedText, Unit

ExtraSlots = list[TokenizedText | None]  # None is an empty slot

_Item = TypeVar("_Item")


class ExtraTexts:
    """Chooses the further texts of samples.

    Args:
        needs: names of what batches carry; ``units``, ``paraphrases`` and ``second_captions`` matter here.
        num_units: slots of units, and as many of foils.
        draw_units: whether the units of a step are drawn at random; otherwise the first ones are used.

    Attributes:
        num_slots: key of ``Batch.extra_texts`` -> slots of each sample, in the order of the batch.
    """

    def __init__(self, needs: Collection[str], num_units: int, draw_units: bool):
        self.draw_units = draw_units
        self.num_slots: dict[str, int] = {}
        if "units" in needs:
            self.num_slots |= {"units": num_units, "foils": num_units}
        self.num_slots |= {name: 1 for name in ("paraphrases", "second_captions") if name in needs}

    def choose(self, sample: Sample, seed: str) -> dict[str, ExtraSlots]:
        """Choose the texts of one step.

        Args:
            sample: with the caption of this step.
            seed: of the random choices; equal seeds give equal texts.
        """
        chosen: dict[str, ExtraSlots] = {}
        if "units" in self.num_slots:
            units = self._units(sample, random.Random(f"{seed}-units"))
            chosen["units"] = [unit and unit[0] for unit in units]
            chosen["foils"] = [unit and unit[1] for unit in units]
        if "paraphrases" in self.num_slots:
            chosen["paraphrases"] = [_one_of(_paraphrases(sample), random.Random(f"{seed}-paraphrase"))]
        if "second_captions" in self.num_slots:
            chosen["second_captions"] = [_one_of(_second_captions(sample), random.Random(f"{seed}-second"))]
        return chosen

    def _units(self, sample: Sample, rng: random.Random) -> list[tuple[TokenizedText, TokenizedText] | None]:
        usable = [number for number, unit in enumerate(sample.units) if _is_usable(unit)]
        slots = self.num_slots["units"]
        if self.draw_units:
            usable = sorted(rng.sample(usable, min(slots, len(usable))))
        first = _num_captions(sample) + len(sample.negatives)
        pairs = [
            (_text(sample, first + 2 * number, unit.text), _text(sample, first + 2 * number + 1, unit.foil))
            for number, unit in ((number, sample.units[number]) for number in usable[:slots])
        ]
        return [*pairs, *[None] * (slots - len(pairs))]

    def notes(self, sample: Sample) -> list[str]:
        """Say which of the needed texts a sample lacks, and which of its units cannot be used."""
        notes = []
        if "units" in self.num_slots:
            dropped = sum(not _is_usable(unit) for unit in sample.units)
            if dropped:
                notes.append(f"dropped {dropped} unit(s) that are empty or equal to their foil")
            if len(sample.units) == dropped:
                notes.append("no units: a term that reads them leaves the sample out")
        if "paraphrases" in self.num_slots and not _paraphrases(sample):
            notes.append("no paraphrase: a term that reads one leaves the sample out")
        if "second_captions" in self.num_slots and not _second_captions(sample):
            notes.append("no second caption: a term that reads one leaves the sample out")
        return notes


def _is_usable(unit: Unit) -> bool:
    text, foil = normalized(unit.text), normalized(unit.foil)
    return bool(text and foil) and text != foil


def _paraphrases(sample: Sample) -> list[TokenizedText]:
    first = _num_captions(sample) + len(sample.negatives) + 2 * len(sample.units)
    texts = [_text(sample, first + number, text) for number, text in enumerate(sample.paraphrases)]
    return [text for text in texts if _differs(text.text, sample.caption)]


def _second_captions(sample: Sample) -> list[TokenizedText]:
    """Return the other captions of the image: the sample's own, else the one of another row."""
    texts = [_text(sample, number, text) for number, text in enumerate(sample.captions)]
    if sample.other_caption is not None:
        texts.append(sample.other_caption)
    return [text for text in texts if _differs(text.text, sample.caption)]


def _differs(text: str, caption: str) -> bool:
    return normalized(text) not in ("", normalized(caption))


def _text(sample: Sample, number: int, text: str) -> TokenizedText:
    """Return a text with its token ids; ``number`` is its position among ``texts_of``."""
    return TokenizedText(text, None if sample.tokens is None else sample.tokens.ids[number])


def _num_captions(sample: Sample) -> int:
    return max(1, len(sample.captions))


def _one_of(items: Sequence[_Item], rng: random.Random) -> _Item | None:
    return rng.choice(items) if items else None
