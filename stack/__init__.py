"""Runs the real servers of pipeline mode on this machine, without containers.

`python -m stack start` is for people; tests use `Stack` with their own home and ports.
"""

from stack.errors import StackError
from stack.home import Home
from stack.pipeline import Stack

__all__ = ["Home", "Stack", "StackError"]
