"""DeGLA: fine-tune CLIP on hard negative captions without losing its zero-shot ability.

Kept empty of imports on purpose: ``degla-train --help`` and shell completion must not wait for torch.
"""

__version__ = "0.1.0"
