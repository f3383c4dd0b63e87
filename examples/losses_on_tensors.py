"""The four losses of DeGLA on tensors.

Run this file as a script, ``python examples/losses_on_tensors.py``, or cell by cell in an editor that reads ``# %%``.
Each function takes unit-norm features and returns a scalar. ``docs/losses.md`` defines the terms.
"""

# %%
import torch
from torch.nn.functional import normalize

from degla.losses import (
    IGC,
    TGC,
    Contrastive,
    Distillation,
    Features,
    Objective,
    contrastive_loss,
    distillation_loss,
    igc_loss,
    tgc_loss,
)

torch.manual_seed(0)
B, K, D = 8, 4, 64  # samples, hard negatives of each, embedding size


def unit(*shape: int) -> torch.Tensor:
    """Return random unit vectors ``(*shape, D)``."""
    return normalize(torch.randn(*shape, D), dim=-1)


# %% [markdown]
# ## A batch
#
# The student gives an embedding for each image, caption and negative; the teacher gives its own. A sample may have
# fewer than K negatives: `negative_mask` says which exist.

# %%
image, text, negatives = unit(B).requires_grad_(), unit(B), unit(B, K)
teacher_image, teacher_text, teacher_negatives = unit(B), unit(B), unit(B, K)
negative_mask = torch.ones(B, K, dtype=torch.bool)
negative_mask[0, 2:] = False  # the first sample has two negatives
logit_scale = torch.tensor(100.0)  # the multiplier itself, not its logarithm

# %% [markdown]
# ## The terms, one by one

# %%
terms = {
    "contrastive": contrastive_loss(
        image_features=image,
        text_features=text,
        negative_features=negatives,
        negative_mask=negative_mask,
        logit_scale=logit_scale,
    ),
    "igc": igc_loss(
        image_features=image,
        text_features=text,
        negative_features=negatives,
        negative_mask=negative_mask,
        logit_scale=logit_scale,
    ),
    "tgc": tgc_loss(
        text_features=text,
        teacher_text_features=teacher_text,
        negative_features=negatives,
        negative_mask=negative_mask,
        scale=10.0,
    ),
    "distill": distillation_loss(
        image_features=image,
        text_features=text,
        negative_features=negatives,
        teacher_image_features=teacher_image,
        teacher_text_features=teacher_text,
        teacher_negative_features=teacher_negatives,
        negative_mask=negative_mask,
    ),
}
for name, term in terms.items():
    print(f"{name:<12} {term.item():.3f}")

# %% [markdown]
# ## The same as one objective
#
# A training run calls an `Objective`. It gathers features over processes, adds the weighted terms, and returns each
# term unweighted for the log.

# %%
objective = Objective(
    {"contrastive": Contrastive(1.0), "igc": IGC(0.1), "tgc": TGC(0.1), "distill": Distillation(1.28)}
)
student = Features(image=image, text=text, negatives=negatives, negative_mask=negative_mask, logit_scale=logit_scale)
teacher = Features(
    image=teacher_image,
    text=teacher_text,
    negatives=teacher_negatives,
    negative_mask=negative_mask,
    logit_scale=logit_scale,
)
losses = objective(student, teacher)
losses.total.backward()
print(f"total        {losses.total.item():.3f}")

# %% [markdown]
# ## What IGC is, in one line
#
# The cross-entropy of choosing the true caption among itself and the sample's own negatives.

# %%
choices = torch.cat([text[:, None], negatives], dim=1)  # (B, 1 + K, D)
logits = logit_scale * torch.einsum("bd,bkd->bk", image, choices)
exists = torch.cat([torch.ones(B, 1, dtype=torch.bool), negative_mask], dim=1)
by_hand = torch.nn.functional.cross_entropy(
    logits.masked_fill(~exists, float("-inf")), torch.zeros(B, dtype=torch.long)
)
torch.testing.assert_close(by_hand, terms["igc"])
