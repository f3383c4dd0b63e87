"""Serve the page of ``degla-try``: bound to this machine, closed to other hosts, without telemetry.

gradio is imported inside functions, because it is an optional package.
"""

import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from degla.api.model import Model
from degla.data.images import ImageLimits
from degla.errors import ConfigError, MissingDependencyError

# The page needs nothing from other hosts, and browsers refuse what is not listed here. gradio's own scripts are
# inline in part and build functions from text.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; connect-src 'self'; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
_HEADERS = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}


def check_gradio() -> None:
    """Check that gradio is installed, and switch off everything of it that talks to other hosts.

    Raises:
        MissingDependencyError: gradio is not installed.
    """
    # gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_SHARE"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError.for_extra("serve=true needs gradio", "demo") from error


def serve(
    models: Mapping[str, Model],
    limits: ImageLimits,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_upload_mb: int = 20,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, and delete the uploads then.

    Args:
        models: role -> model.
        limits: bounds of an image's size.
        host: address to listen on.
        port: of the page; 0 takes a free one.
        max_upload_mb: largest upload in megabytes.

    Raises:
        ConfigError: the address cannot be used.
        MissingDependencyError: gradio is not installed.
    """
    port = _free_port(host, port)
    check_gradio()
    signal.signal(signal.SIGTERM, _exit)  # without a handler the process ends before it deletes the uploads
    with tempfile.TemporaryDirectory(prefix="degla-try-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        from degla.demo.page import build_page, theme
        from degla.demo.page_parts import STYLE

        page = build_page(models, limits, Path(folder))
        page.queue(default_concurrency_limit=1, max_size=32)
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            max_file_size=f"{max_upload_mb}mb",
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=theme(),
            css=STYLE,
            app_kwargs={"middleware": _middleware(host), "docs_url": None, "redoc_url": None, "openapi_url": None},
        )
        print(f"http://{_shown(host)}:{port}  (Ctrl-C stops it)", flush=True)
        try:
            page.block_thread()
        finally:
            page.close(verbose=False)


class SecurityHeaders:
    """ASGI middleware that adds headers which keep the page from other hosts.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request.

        Args:
            scope: the request.
            receive: of ASGI.
            send: of ASGI.
        """

        async def send_with_headers(event: Any) -> None:
            if event["type"] == "http.response.start":
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                event = {**event, "headers": [*event.get("headers", []), *added]}
            await send(event)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _middleware(host: str) -> list[Any]:
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    layers = [Middleware(SecurityHeaders)]
    if _is_local(host):
        # Without this check a foreign page could reach ours under a name of its own that resolves to this machine.
        layers.append(Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", host]))
    return layers


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _free_port(host: str, port: int) -> int:
    """Return the port to listen on, after checking that it can be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"host={host} port={port} cannot be used ({reason}): set port=0 for a free one") from error


def _shown(host: str) -> str:
    """Return a host as an address of the web has it; 0.0.0.0 is shown as a name that browsers open."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host
