"""From captions to typed, checked hard negatives (paper, section 3.1)."""
