"""From captions to typed, checked hard negatives (paper, section 3.1).

``pipeline`` is where to begin reading.
"""
