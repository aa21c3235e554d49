"""Writes the table of benchmarks/README.md from the results; no figure in it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.results import PATH

README = Path(__file__).parent / "README.md"
BEGIN = "<!-- results: written by `python -m benchmarks`, do not edit -->"
END = "<!-- end of results -->"
_MET = {True: "met", False: "**not met**", None: ""}


def update(readme: Path = README, results: Path = PATH) -> None:
    """Write the table between the two markers anew.

    Raises:
        ValueError: a marker is missing.
    """
    text = readme.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme.name} without the line {BEGIN!r}, and {END!r} after it")
    there = json.loads(results.read_text("utf-8")) if results.exists() else None
    written = table(there) if there else "None were taken yet.\n"
    readme.write_text(f"{before}{BEGIN}\n\n{written}\n{END}{after}", "utf-8")


def table(document: dict[str, Any]) -> str:
    """The results as Markdown: those with a target first, and each case's command beside them."""
    machine = document["machine"]
    rows = document["results"]
    aimed = {name: row for name, row in rows.items() if row.get("target")}
    others = {name: row for name, row in rows.items() if not row.get("target")}
    lines = [
        f"Taken on {machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}.",
        "",
        "### With a target",
        "",
        *_table(aimed),
        "",
        "### Without one",
        "",
        *_table(others),
        "",
    ]
    return "\n".join(lines)


def _table(rows: dict[str, dict[str, Any]]) -> list[str]:
    return [
        "| name | value | range | rounds | unit | target | | peer | command |",
        "|---|--:|---|--:|---|---|---|---|---|",
        *(_row(name, row) for name, row in rows.items()),
    ]


def _row(name: str, row: dict[str, Any]) -> str:
    value = "not measured" if row["value"] is None else f"{row['value']:.4g}"
    spread = f"{row['low']:.4g} to {row['high']:.4g}" if "low" in row and "high" in row else ""
    peer = " ".join(filter(None, (row.get("peer"), row.get("peer_version"))))
    command = f"`{row['command']}`" if row.get("command") else ""
    cells = (
        *(f"`{name}`", value, spread, str(row.get("rounds", "")), row["unit"]),
        *(row.get("target", ""), _MET[row.get("met")], peer, command),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
