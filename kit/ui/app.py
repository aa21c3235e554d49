"""The panel as an application in the browser, by Voilà: `make app`.

For people who do not write Python. A study goes on when its page is closed, and is shown again by
the next one; it stops with the application. It listens on 127.0.0.1 and asks for a token, which the
address that is printed carries, unless it is told otherwise.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from kit.servers.processes import ending_with_us

HERE = Path(__file__).parent
CELL = """from pathlib import Path
from kit.ui.panel import Panel
Panel(studies=Path({studies!r}), apart=True, **{chosen!r})"""
EARLIER = """from kit.ui.history_view import HistoryView
HistoryView(Path({studies!r}))"""


def app_notebook(
    folder: Path, studies: Path, chosen: Mapping[str, Sequence[str]] | None = None
) -> Path:
    """Write the notebook that Voilà serves: the panel, and beneath it the earlier studies.

    chosen: what the panel has chosen at first, by the names of Panel's arguments.
    """
    import nbformat

    sources = [
        CELL.format(studies=str(studies), chosen=dict(chosen or {})),
        EARLIER.format(studies=str(studies)),
    ]
    notebook = nbformat.v4.new_notebook(  # type: ignore[no-untyped-call]
        cells=[nbformat.v4.new_code_cell(source) for source in sources],  # type: ignore[no-untyped-call]
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    path = folder / "Triton crash kit.ipynb"
    nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
    return path


def voila_command(notebook: Path, *, ip: str, port: int, token: str) -> list[str]:
    """The command that serves it. token: "" = none is asked for."""
    command = [sys.executable, "-m", "voila", str(notebook), "--no-browser", f"--port={port}"]
    command += [f"--Voila.ip={ip}", f"--Voila.token={token}", "--strip_sources=True"]
    command += ["--template=kit", "--theme=light"]
    command += [f"--Voila.connection_dir_root={notebook.parent}"]  # else it stays in /tmp
    return [*command, "--VoilaConfiguration.show_tracebacks=True"]


def voila_environment() -> dict[str, str]:
    """The environment of that command: this process's, where the kit's template is found too."""
    paths = [str(HERE / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    return {**os.environ, "JUPYTER_PATH": os.pathsep.join(filter(None, paths))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted; the servers of a study that runs then are ended and removed."""
    parser = argparse.ArgumentParser(prog="make app", description=__doc__)
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument("--ip", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--no-token", action="store_true", help="let anybody in who reaches it")
    parser.add_argument("--studies", type=Path, default=Path("studies"), metavar="DIR")
    chosen = parser.parse_args(arguments)
    token = "" if chosen.no_token else secrets.token_urlsafe(24)
    query = f"?token={token}" if token else ""
    address = f"http://{chosen.ip}:{chosen.port}/{query}"
    with tempfile.TemporaryDirectory(prefix="kit-app-") as folder:
        notebook = app_notebook(Path(folder), chosen.studies.resolve())
        command = voila_command(notebook, ip=chosen.ip, port=chosen.port, token=token)
        code = _serve(command, address)
    sys.exit(code)


def _serve(command: Sequence[str], address: str) -> int:
    """Run Voilà until it ends, by itself or since this process is told to; its exit code.

    Killed, this process takes Voilà with it, on Linux; the temp folder then stays.
    """
    end: Any = ending_with_us() if sys.platform == "linux" else None
    asked: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        if voila is not None:
            voila.terminate()

    voila: subprocess.Popen[bytes] | None = None
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(getattr(signal, name), stop)
    voila = subprocess.Popen(command, env=voila_environment(), preexec_fn=end)
    print(f"Open {address}", flush=True)
    if asked:  # before there was anything to end
        voila.terminate()
    code = voila.wait()
    return 128 + asked[0] if asked else code


if __name__ == "__main__":
    main()
