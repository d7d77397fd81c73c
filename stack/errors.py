"""What goes wrong with the stack, said for the person who started it."""


class StackError(Exception):
    """A server could not be prepared, started or stopped; the text says which, why, and what to do."""
