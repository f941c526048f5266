"""The exceptions for invalid user input, and detection of out-of-memory errors."""


class UserError(ValueError):
    """Invalid user input: an invalid value, an unknown name, a missing or damaged file.

    The message is one sentence with the problem, the allowed values and the next step. The command line prints it
    without a traceback and exits with status 2; in Python it is a `ValueError`.
    """


class PromptError(UserError):
    """A prompt that the model cannot use: it is empty, has too many tokens, or is not Unicode text."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out. On a CPU, torch raises a plain RuntimeError."""
    if (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    ):  # the class of torch, without importing it
        return True
    messages = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    return isinstance(error, RuntimeError) and any(message in str(error).lower() for message in messages)
