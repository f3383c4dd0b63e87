"""A bar with what was answered, what it cost and how long it will take."""

from collections.abc import Sequence

from tqdm import tqdm


class Progress:
    """Counts and shows.

    Args:
        total: caption-and-kind pairs.
        prices: dollars for a million input and a million output tokens.
        disable: show nothing.
    """

    def __init__(self, total: int, prices: tuple[float, float] = (0.0, 0.0), disable: bool | None = None):
        self.prices = prices
        self.num_answered = 0
        self.num_without = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self._bar = tqdm(total=total, desc="Writing negatives", unit="", smoothing=0.05, disable=disable)

    def done(self, has_negatives: bool) -> None:
        """A caption and kind has its negatives, or a reason why not."""
        self.num_answered += 1
        self.num_without += not has_negatives
        self._bar.update()

    def spent(self, input_tokens: int, output_tokens: int) -> None:
        """What an answer used."""
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        if self.input_tokens:
            cost = dollars((self.input_tokens, self.output_tokens), self.prices)
            shown = {"tokens": f"{self.input_tokens + self.output_tokens:,}", "none": self.num_without}
            self._bar.set_postfix(shown | ({"cost": f"${cost:.2f}"} if cost else {}), refresh=False)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


def dollars(tokens: Sequence[int], prices: Sequence[float]) -> float:
    """What input and output tokens cost, at dollars for a million of each."""
    return (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6
