"""Serving the page on this machine only, without a word to any other."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from hwsim.trace import InputError

if TYPE_CHECKING:
    from studies.demo.conversation import Engine
    from studies.demo.page import Page

HOST = "127.0.0.1"
PORT = 7860
PORTS_TRIED = 100
HEARTBEAT_S = 2
STYLE_FILE = Path(__file__).with_name("page.css")


def load_gradio() -> None:
    """Import gradio with everything off that talks to somebody else.

    Raises:
        ModuleNotFoundError: If it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # How soon a closed tab is noticed, and its decoding ended.
    os.environ["GRADIO_HEARTBEAT_INTERVAL"] = str(HEARTBEAT_S)
    # Its monitoring page is off: without this, every event would have pandas sum up all events before it.
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(sys.maxsize)
    # At its start gradio asks its own address, which a proxy cannot answer.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), HOST)))
    import gradio  # noqa: F401


def choose_port(wanted: int | None) -> int:
    """The port asked for, or the first free one from :data:`PORT` on.

    Raises:
        InputError: If the wanted port cannot be used; it names one that can.
    """
    if wanted is None:
        return _free_port()
    problem = _obstacle(wanted)
    if problem is not None:
        raise InputError(f"--port {wanted}: {problem}; --port {_free_port()} is free")
    return wanted


def _free_port() -> int:
    for port in range(PORT, PORT + PORTS_TRIED):
        if _obstacle(port) is None:
            return port
    raise InputError(f"ports {PORT}..{PORT + PORTS_TRIED - 1}: all in use; give a free one with --port")


def _obstacle(port: int) -> str | None:
    """Why a port cannot be listened on; None if it can."""
    if not 1 <= port <= 65535:
        return "must be 1..65535"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server does: a port that a closed server left in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return "is in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
    return None


def launch(engine: Engine, npu: str, port: int) -> Page:
    """Serve the page from a thread of its own; returns when it answers.

    Raises:
        InputError: If the port was taken meanwhile.
    """
    from studies.demo.page import Page

    page = Page(engine, npu)
    try:
        page.blocks.launch(
            server_name=HOST,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            # The page takes no files, but gradio would, from any site that the browser has open, and keep them.
            max_file_size=1,
            theme=_theme(),
            css_paths=STYLE_FILE,
        )
    except OSError as error:
        raise InputError(f"--port {port}: cannot be listened on ({error}); choose another") from None
    return page


def _theme() -> Any:
    """Fonts of the machine, and small print that is dark enough to read on either background."""
    import gradio as gr

    theme: Any = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    small = {"body_text_color_subdued": "*neutral_600", "block_info_text_color": "*neutral_600"}
    small |= {f"{name}_dark": "*neutral_300" for name in tuple(small)}
    return theme.set(**small)


def serve(engine: Engine, npu: str, port: int) -> None:
    """Serve until Ctrl-C; the port is free again when this returns or raises."""
    page = launch(engine, npu, port)
    try:
        print(f"bittaper demo: http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
        Event().wait()
    finally:
        close(page)


def close(page: Page) -> None:
    """End what is being decoded and free the port, without waiting for tabs that are open."""
    page.tabs.close()
    # The connections of open tabs are cut, of each of which the server would print a traceback.
    logging.getLogger("uvicorn.error").disabled = True
    page.blocks.server.force_exit = True
    page.blocks.close(verbose=False)
