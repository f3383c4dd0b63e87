"""Numbers that are equal for equal images and for equal captions."""

import hashlib


def normalized(text: str) -> str:
    """Return a text in lower case, with single spaces; captions that differ in nothing else count as equal."""
    return " ".join(text.lower().split())


def image_id(key: str) -> int:
    """Return a number of 63 bits for the key of an image (``image_key``)."""
    return _hash(key)


def text_id(text: str) -> int:
    """Return a number of 63 bits for a caption, whatever its case and spaces."""
    return _hash(normalized(text))


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1  # 63 bits fit a signed integer
