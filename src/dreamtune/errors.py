"""The exception for mistakes of the user, which scripts print as one line, without a traceback."""


class UserError(ValueError):
    """A mistake that the user can mend. Its message is one line: what was given, what was expected, what to do next."""
