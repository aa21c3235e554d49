"""The Triton crash kit: reproduce, measure and explain crashes of an LLM server under load.

Importing this package has no effects and costs nothing; import the room you need, for example
``from kit.runner.study import run_study``.
"""

__version__ = "0.1.0"
