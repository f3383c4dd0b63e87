"""Figures as PNG, rendered the same way in every report."""

import base64
import html
import io

from matplotlib.figure import Figure


def png_bytes(figure: Figure) -> bytes:
    """Render a figure as PNG; the same figure and version of Matplotlib give the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def embedded_png(figure: Figure, description: str) -> str:
    """Return an HTML ``<img>`` with the figure as a data URL.

    Args:
        figure: the figure.
        description: plain text for readers who cannot see it.
    """
    return data_url_image(png_bytes(figure), "image/png", description).replace("<img ", "<img class=figure ", 1)


def data_url_image(content: bytes, media_type: str, description: str) -> str:
    """Return an HTML ``<img>`` with the bytes of an image file as a data URL.

    Args:
        content: the file.
        media_type: such as ``image/png``.
        description: plain text for readers who cannot see it.
    """
    encoded = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(description)}" src="data:{media_type};base64,{encoded}">'
