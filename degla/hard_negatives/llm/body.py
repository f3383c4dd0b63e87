"""Read the body of an HTTP response with a limit on its decoded size."""

import zlib

import aiohttp

MAX_BODY_BYTES = 4 * 2**20  # of a decoded body; an answer of 100,000 tokens has about half a million bytes
ACCEPTED_ENCODINGS = "gzip, deflate"

_READ_BYTES = 2**16


class UnreadableBody(Exception):
    """The body cannot be decoded.

    The message is the reason.
    """


class OversizedBody(Exception):
    """The decoded body is larger than the limit."""


async def read_body(response: aiohttp.ClientResponse, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Return the decoded body.

    The session must have ``auto_decompress=False``: aiohttp itself would decompress without a limit, and a body of
    nine megabytes can become nine gigabytes.

    Args:
        response: a response whose body was not read yet.
        max_bytes: limit of the decoded size.

    Raises:
        OversizedBody: the body is larger. The connection is closed, because the rest is not read.
        UnreadableBody: the encoding is unknown or the data damaged.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate", ""):
        raise UnreadableBody(f"the encoding {encoding[:20]!r} is not supported")
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding not in ("identity", "") else None
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_READ_BYTES):
        if decompressor is not None:
            try:
                chunk = decompressor.decompress(chunk, max_bytes - size + 1)
            except zlib.error as error:
                raise UnreadableBody(f"the compressed data is damaged ({error})") from error
        parts.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            response.close()
            raise OversizedBody
    return b"".join(parts)
