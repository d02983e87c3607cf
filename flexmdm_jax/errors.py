"""The one exception meant for the person at the keyboard."""


class UserError(ValueError):
    """Input that cannot be used: says what is wrong, where, and what to do.

    Entry points print it as a single line and exit with status 2.
    """
