"""Runs notebooks one after the other in one kernel, emptied between them.

A kernel and its imports take most of the time of a short notebook. `kit.ui.notebooks.execute`,
which gives each a kernel of its own, is tested with one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

_AFRESH = """\
%reset -f
import os, matplotlib.pyplot
os.chdir({folder!r})
matplotlib.pyplot.close("all")
"""


class SharedKernel:
    """Use it as a context manager."""

    def __init__(self) -> None:
        self._manager = AsyncKernelManager(kernel_name="python3")

    def __enter__(self) -> SharedKernel:
        return self

    def __exit__(self, *_: object) -> None:
        if self._manager.has_kernel:
            asyncio.run(self._manager.shutdown_kernel(now=True))

    def execute(self, notebook: Path, parameters: Mapping[str, Any], into: Path) -> Path:
        """Execute a notebook with other parameters; the path of the executed copy.

        Raises:
            nbclient.exceptions.CellExecutionError: a cell failed.
        """
        read = nbformat.read(notebook, as_version=4)
        cells = [nbformat.v4.new_code_cell(_AFRESH.format(folder=str(notebook.parent)))]
        for cell in read.cells:
            cells.append(cell)
            if parameters and "parameters" in cell.metadata.get("tags", []):
                given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
                cells.append(nbformat.v4.new_code_cell(given))
        read.cells = cells
        NotebookClient(read, km=self._manager, timeout=240).execute()
        read.cells = cells[1:]
        copy = into / notebook.name
        into.mkdir(parents=True, exist_ok=True)
        nbformat.write(read, copy)
        return copy
