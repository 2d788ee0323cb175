"""The exception for mistakes of the user, which scripts print as one line, without a traceback."""


class UserError(ValueError):
    """A mistake that the user can mend. Its message is one line: what was given, what was expected, what to do next."""


class TooFewToChoose(UserError):
    """There are too few validation questions to choose the best method of a study by."""

    def __init__(self, fewest: int, there: str) -> None:
        """Say how many it takes, and in words how many there are."""
        super().__init__(
            f"study.choose: validation takes at least {fewest} validation questions that can be graded, and {there}; "
            "raise data.split.validation, or set study.choose: test"
        )
