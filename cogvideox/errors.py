"""The one exception that a user can cause."""


class UserError(ValueError):
    """Something the user gave cannot be used: a size, a name, a file, a folder.

    The message is one sentence that says what is wrong, why, and the nearest legal value. The command line prints it
    without a traceback and exits with status 2; in Python it is an ordinary `ValueError`.
    """
