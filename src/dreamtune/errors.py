"""The one exception that speaks to the user."""


class UserError(ValueError):
    """Something the user can mend. The message is one line: what was given, what was expected, what to do next."""
