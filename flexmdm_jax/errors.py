"""The one exception meant for the person at the keyboard, and what others say in a line."""


class UserError(ValueError):
    """Input that cannot be used: says what is wrong, where, and what to do.

    Entry points print it as a single line and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Returns what an exception says, or its kind if it says nothing, cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()[:200]
