"""The one exception that a user can cause, and recognition of out-of-memory errors. Imports no torch."""


class UserError(ValueError):
    """Something the user gave cannot be used: a size, a name, a file, a folder.

    The message is one sentence that says what is wrong, why, and the nearest legal value. The command line prints it
    without a traceback and exits with status 2; in Python it is an ordinary `ValueError`.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of memory: a GPU's has a class of its own, a CPU's only a sentence."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # which only torch could import
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
