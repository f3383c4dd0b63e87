"""A progress bar that also counts tokens and cost."""

from collections.abc import Sequence

from tqdm import tqdm


class Progress:
    """Counts answered tasks and spent tokens, and shows both.

    Args:
        total: number of tasks, each a caption with a kind.
        prices: dollars for a million input tokens and for a million output tokens.
        disable: show nothing. None shows the bar only on a terminal.
    """

    def __init__(self, total: int, prices: Sequence[float] = (0.0, 0.0), disable: bool | None = None):
        self.prices = prices
        self.num_answered = 0
        self.num_without = 0  # answered tasks that have a reason in place of negatives
        self.input_tokens = 0
        self.output_tokens = 0
        self._bar = tqdm(total=total, desc="Writing negatives", unit="", smoothing=0.05, disable=disable)

    def count_task(self, has_negatives: bool) -> None:
        """Count one answered task."""
        self.num_answered += 1
        self.num_without += not has_negatives
        self._bar.update()

    def count_tokens(self, input_tokens: int, output_tokens: int) -> None:
        """Add the tokens of one answer.

        Args:
            input_tokens: tokens of the request.
            output_tokens: tokens of the answer.
        """
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        if self.input_tokens:
            cost = dollars((self.input_tokens, self.output_tokens), self.prices)
            shown = {"tokens": f"{self.input_tokens + self.output_tokens:,}", "none": str(self.num_without)}
            self._bar.set_postfix(shown | ({"cost": f"${cost:.2f}"} if cost else {}), refresh=False)

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.write(text)

    def close(self) -> None:
        """Stop the bar.

        It stays on the screen.
        """
        self._bar.close()


def dollars(tokens: Sequence[int], prices: Sequence[float]) -> float:
    """Return the cost of input and output tokens.

    Args:
        tokens: number of input tokens and of output tokens.
        prices: dollars for a million of each.
    """
    return (tokens[0] * prices[0] + tokens[1] * prices[1]) / 1e6
