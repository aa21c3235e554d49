"""Keeps pandas out of a process that has no use for it.

pyarrow imports pandas, if it can, as soon as it is given a list: a second or two of a slow
machine's core, and 40 MB, in the middle of whatever is being measured.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder


def keep_pandas_out() -> None:
    """From now on `import pandas` fails in this process; call it first of all."""
    sys.meta_path.insert(0, _WithoutPandas)


class _WithoutPandas(MetaPathFinder):
    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("pandas is kept out of this process", name=name)
