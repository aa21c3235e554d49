"""Runs a notebook with other parameters, and reads the study that it describes."""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import papermill

from kit.errors import SpecError, StoreError
from kit.study.paths import NOTEBOOKS
from kit.study.spec import StudySpec
from kit.ui.choices import choose

FIRST_LIGHT = NOTEBOOKS / "01_reproduce_the_crash.ipynb"


def parameters_of(notebook: Path) -> dict[str, Any]:
    """What the cell tagged `parameters` sets, with its values.

    Raises:
        StoreError: no such notebook.
        SpecError: it has no such cell, or one that does more than set plain values.
    """
    try:
        cells = nbformat.read(notebook, as_version=4).cells  # type: ignore[no-untyped-call]
    except OSError as error:
        raise StoreError(
            f"{notebook} cannot be read: {error.strerror}", "a notebook", "check the path"
        ) from error
    tagged = [c.source for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise SpecError(
            f"{notebook.name} with {len(tagged)} cells tagged parameters", "one", "tag one cell"
        )
    values: dict[str, Any] = {}
    for line in ast.parse(tagged[0]).body:
        try:
            assert isinstance(line, ast.Assign)
            assert isinstance(line.targets[0], ast.Name)
            values[line.targets[0].id] = ast.literal_eval(line.value)
        except (AssertionError, ValueError) as error:
            raise SpecError(
                f"line {line.lineno} of the parameters of {notebook.name}",
                "a name set to a plain value",
                "move everything else to another cell",
            ) from error
    return values


def notebook_spec(parameters: Mapping[str, Any]) -> StudySpec:
    """The study that a notebook's parameters describe.

    Raises:
        SpecError, UnknownReleaseError, UnknownScenarioError: it cannot be run as written.
    """
    return choose(
        parameters["releases"],
        parameters["scenarios"],
        name=parameters["name"],
        concurrency=parameters["concurrency"] or None,
        requests=parameters.get("requests"),
        repeats=parameters["repeats"],
        sequential=parameters.get("sequential", False),
        least_repeats=parameters.get("least_repeats", 1),
    )


def execute(notebook: Path, parameters: Mapping[str, Any], into: Path) -> Path:
    """Execute a notebook with other parameters, as papermill does; the executed copy's path.

    On a terminal a bar counts the cells. The copy is written as it goes, so that a cell that
    fails can be read in it.

    Raises:
        SpecError: the notebook does not have one of the parameters.
        papermill.PapermillExecutionError: a cell failed.
    """
    unknown = sorted(set(parameters) - set(parameters_of(notebook)))
    if unknown:
        raise SpecError(
            f"parameters {', '.join(unknown)} for {notebook.name}",
            f"some of {', '.join(parameters_of(notebook))}",
            "correct the names",
        )
    into.mkdir(parents=True, exist_ok=True)
    executed = into / notebook.name
    logging.getLogger("papermill").setLevel(logging.WARNING)
    papermill.execute_notebook(
        notebook,
        executed,
        dict(parameters),
        cwd=notebook.parent,
        progress_bar=sys.stderr.isatty(),
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # its remarks are no progress
    )
    return executed
