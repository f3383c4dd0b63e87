"""Write typed, checked hard negatives for captions (paper, section 3.1).

Start reading at ``pipeline``.
"""
