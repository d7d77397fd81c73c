"""Errors of the stack, worded for its user."""


class StackError(Exception):
    """A server could not be prepared, started or stopped; the text says which, why, and what to do."""
