"""`cogvideox VERB ...`: finds the verb's file, runs it, and turns errors into one sentence and an exit status.

A verb is a module of this package with a function `run(arguments: list[str]) -> None`. It is imported when it is
called, and imports whatever is heavy only once its arguments have been read, so that `--help` answers at once.
"""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cogvideox.cli.arguments import nearest
from cogvideox.errors import UserError, is_out_of_memory
from cogvideox.version import __version__

VERBS = {
    "generate": "make a video from a sentence",
    "encode": "make latents and features of videos and captions, once, for training",
    "train": "train a VAE or a transformer with a recipe",
    "plot": "draw the curves of runs",
    "convert": "convert weights: SAT, diffusers, single files",
    "inspect": "say what a file or folder of weights is",
    "toybox": "render scenes of the built-in world, or judge a video",
    "doctor": "look at this machine and this installation",
}

_MODULES = {"generate": "cogvideox.cli.generate.command"}

# What no file's own code has put into a sentence, and is still nobody's bug.
_FAULTS_OF_THE_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)

# Exit statuses. A bug or a broken machine leaves a traceback and Python's own status, 1.
DONE, USER_ERROR, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0, 2 (something the user gave) or 130 (Ctrl-C)."""
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _complain(str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _complain("out of memory: ask for fewer frames, a smaller size or, in training, a smaller batch")
    except KeyboardInterrupt:
        print("\ncogvideox: interrupted, no half-written file is left", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`cogvideox ... | head`); what is left in the buffer cannot be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        if error.errno not in _FAULTS_OF_THE_DISK:
            raise
        return _complain(f"{error.filename or 'the disk'}: {error.strerror}")
    except SystemExit as exit:  # argparse ends --help and --version this way
        return exit.code if isinstance(exit.code, int) else DONE
    return DONE


def _dispatch(arguments: list[str]) -> None:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help", "help"):
        print(_overview())
    elif verb in ("-V", "--version"):
        print(f"cogvideox {__version__}")
    elif verb in VERBS:
        import_module(_MODULES.get(verb, f"cogvideox.cli.{verb}")).run(arguments[1:])
    else:
        raise UserError(f"there is no command {verb!r}{nearest(verb, VERBS)}; the commands are {', '.join(VERBS)}")


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {purpose}" for verb, purpose in VERBS.items()]
    return "\n".join(
        [
            "usage: cogvideox COMMAND [...]",
            "",
            *lines,
            "",
            "`cogvideox COMMAND --help` shows what a command takes; `cogvideox --version` shows the version.",
        ]
    )


def _complain(sentence: str) -> int:
    # One line, whatever the message was built from.
    print(f"cogvideox: {' '.join(sentence.split())}", file=sys.stderr)
    return USER_ERROR
