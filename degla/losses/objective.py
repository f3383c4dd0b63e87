"""``Objective``: the weighted sum of terms that training minimises."""

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from degla.errors import ConfigError
from degla.losses.features import Features, LossTerms
from degla.losses.gather import GlobalBatch, gather_features, global_batch
from degla.losses.term import Term


class Objective(nn.Module):
    """Gathers features over the ranks once and adds weighted terms.

    Args:
        terms: name -> term. The name is that of the log, ``train/loss_<name>``. Terms of weight 0 are left out.
        local_loss: each rank computes the logits of its own samples only. The result is the same; without it every rank
            computes all of them. ``gather=released`` computes all of them in any case.
        gather: ``exact`` gives R ranks the gradient of one rank that holds the whole batch. ``released`` follows the
            authors' code: each rank computes the loss of the whole batch from gathered features, and gradient reaches
            its own samples only, so the features' gradient is 1/R of the exact one. Terms that read token features,
            which are not gathered, are exact in either case.

    Attributes:
        weights: name -> weight of the terms that are computed.
        needs: what these terms read besides images and captions; names in ``degla.losses.features.NEEDS``.

    Raises:
        ConfigError: a weight is negative or not finite, ``gather`` has another value, or two terms contradict each
            other.
    """

    def __init__(
        self, terms: Mapping[str, Term], local_loss: bool = True, gather: Literal["exact", "released"] = "exact"
    ):
        super().__init__()
        for name, term in terms.items():
            if not 0 <= term.weight < math.inf:
                raise ConfigError(
                    f"objective.{name}={term.weight} must be a number of 0 or more; 0 leaves the term out"
                )
        if gather not in ("exact", "released"):
            raise ConfigError(f"objective.gather={gather} must be exact or released")
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term.weight != 0})
        self.local_loss = local_loss and gather == "exact"
        self.gather = gather
        self.needs = frozenset(need for term in self.active.values() for need in term.needs)

    @property
    def active(self) -> dict[str, Term]:
        """Name -> term, of the terms that are computed."""
        return dict(self.terms.items())  # type: ignore[arg-type]  # a ModuleDict does not know the type of its modules

    @property
    def weights(self) -> dict[str, float]:
        """Name -> weight of the terms that are computed."""
        return {name: term.weight for name, term in self.active.items()}

    @property
    def uses_teacher(self) -> bool:
        """Whether some term reads the teacher."""
        return "teacher" in self.needs

    @property
    def uses_negatives(self) -> bool:
        """Whether some term reads negatives."""
        return not self.needs.isdisjoint(("negatives", "unfiltered_negatives"))

    @property
    def reads_all_parameters(self) -> bool:
        """Whether gradient reaches every parameter of the model."""
        return any(term.reads_all_parameters for term in self.active.values())

    def set_batches_per_pass(self, batches: int) -> None:
        """Tell the terms how many batches each rank computes in one pass over the data.

        Args:
            batches: 1 or more.
        """
        for term in self.active.values():
            term.batches_per_pass = max(1, batches)

    def forward(self, student: Features, teacher: Features | None = None) -> LossTerms:
        """Gather once over the ranks and add the weighted terms.

        Args:
            student: features with gradient, such as ``(B, D)`` images.
            teacher: the same batch encoded by the teacher, or None where ``uses_teacher`` is False.

        Returns:
            ``LossTerms``. Their mean over the ranks has the value and, because DDP averages gradients likewise, the
            gradient of one process that holds the whole batch.
        """
        batch = global_batch(len(student.image))
        needs = [term.needs for term in self.active.values() if self._gathers(term)]
        gathered = self._gathered(student, batch, needs)
        gathered_teacher = None
        if teacher is not None:
            gathered_teacher = self._gathered(teacher, batch, [names for names in needs if "teacher" in names])
        values = {
            name: self._value(term, gathered, gathered_teacher, batch)
            if self._gathers(term)
            else self._value(term, student, teacher, batch)
            for name, term in self.active.items()
        }
        zero = student.image.new_zeros(())
        total = sum((self.weights[name] * value for name, value in values.items()), start=zero)
        return LossTerms(total=total, terms={name: value.detach() for name, value in values.items()})

    def _gathers(self, term: Term) -> bool:
        """Return whether a term reads the samples of all ranks; in the authors' code every term does."""
        return term.gathers or (self.gather == "released" and "tokens" not in term.needs)

    def _gathered(self, features: Features, batch: GlobalBatch, needs: list[frozenset[str]]) -> Features | None:
        """Return the features of all ranks that terms with these needs read; None where there is no such term."""
        if not needs:
            return None
        return gather_features(features, batch, sorted(frozenset().union(*needs)), exact=self.gather == "exact")

    def _value(self, term: Term, student: Features | None, teacher: Features | None, batch: GlobalBatch) -> Tensor:
        """Return a term's value, so weighted that the mean over the ranks is its value on the global batch."""
        rows, share = slice(None), 1.0
        if term.averages_samples and not self._gathers(term):
            share = batch.share
        elif term.averages_samples and self.local_loss:
            rows, share = batch.rows, batch.share
        value: Tensor = term(student=student, teacher=teacher, rows=rows)
        return share * value
