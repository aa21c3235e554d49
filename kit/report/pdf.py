"""Prints a report to PDF, with a browser that the machine has."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from kit.errors import ExportError, MachineError
from kit.servers.browser import BROWSERS, find_browser

#: A browser starts in a second; a busy machine may need far longer.
TIMEOUT_S: Final = 180.0
FLAGS: Final = (
    "--headless",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--no-pdf-header-footer",
)


def write_pdf(page: Path) -> Path:
    """Print an HTML report to a PDF beside it (A4 or Letter, as the browser is set); its path.

    Raises:
        MachineError: no browser of the Chromium family here.
        ExportError: the browser did not write it.
    """
    browser = find_browser()
    if browser is None:
        raise MachineError(
            f"no browser here: none of {', '.join(BROWSERS)}",
            "Chromium, Chrome or Edge, which print the page",
            "install one (Debian: chromium), or print the HTML file from any browser",
        )
    with tempfile.TemporaryDirectory(prefix="crash-kit-pdf-") as scratch:
        out = Path(scratch) / "page.pdf"
        command = [
            *(browser, *FLAGS, f"--user-data-dir={scratch}/profile", f"--print-to-pdf={out}"),
            # Chromium refuses to run as root inside its sandbox.
            *(["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []),
            page.resolve().as_uri(),
        ]
        why = _why_not(command)
        if not out.is_file():
            raise ExportError(
                f"{browser} printed nothing{': ' + why if why else ''}",
                "a PDF of the page",
                "print the HTML file from a browser",
            )
        written = page.with_suffix(".pdf")
        written.write_bytes(out.read_bytes())
    return written


def _why_not(command: list[str]) -> str:
    """Run it; the last line that it said if it failed, else ""."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"not done after {TIMEOUT_S:.0f} s"
    finally:
        _end(process)
    lines = said.decode(errors="replace").splitlines()
    return lines[-1] if process.returncode and lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the browser and the processes that it started, if they still run."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
