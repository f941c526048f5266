"""`cogvideox COMMAND ...`: run a command, and report user errors in one sentence.

A command is a module of this package with a function `run(arguments: list[str]) -> None`. It is imported lazily, and
imports heavy libraries only after parsing its arguments, so that `--help` is fast.
"""

import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cogvideox.cli.common.arguments import nearest
from cogvideox.cli.common.messages import print_message
from cogvideox.errors import UserError, is_out_of_memory
from cogvideox.version import __version__

COMMANDS = {
    "generate": "generate a video from a prompt, an image or a video",
    "plan": "estimate whether a model runs, or trains, on a GPU, and how long it takes",
    "evaluate": "score a model or a folder of videos, with confidence intervals and a report",
    "rate": "plan a blind study of videos, serve its page, and show the results",
    "curate": "split raw videos into clips, measure them, and list the usable ones",
    "caption": "caption clips with a pipeline of models, and show the captions",
    "funnel": "show what a curation kept and dropped, and why",
    "select": "select clips of a curation with a policy, or explain the selection of one clip",
    "labels": "train and apply classifiers that detect clips unfit for training, and exchange annotations",
    "annotate": "serve a page on which people label clips, and learn from their answers",
    "encode": "encode videos and captions as latents and embeddings, for training",
    "train": "train a VAE or a transformer with a recipe",
    "ablate": "repeat an ablation of the paper at small scale, with a report",
    "plot": "plot the metrics of training runs",
    "convert": "convert weights: SAT, diffusers, single files",
    "inspect": "identify a file or folder of weights and check it",
    "toybox": "render scenes of the built-in toy world, or judge a video",
    "doctor": "check this machine and installation",
}

_MODULES = {
    "annotate": "cogvideox.cli.curation.annotate",
    "caption": "cogvideox.cli.curation.caption",
    "curate": "cogvideox.cli.curation.curate",
    "evaluate": "cogvideox.cli.evaluate.command",
    "funnel": "cogvideox.cli.curation.funnel",
    "generate": "cogvideox.cli.generate.command",
    "select": "cogvideox.cli.curation.select",
    "labels": "cogvideox.cli.curation.labels",
}

_COMMANDS_WITH_OPTIONS = ("encode", "evaluate", "generate", "plan")

_FAILURE = "cogvideox.parallel.failure"

# File system errors that are not bugs, if no other code handles them.
_DISK_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG)

# Exit statuses. After a bug, Python prints a traceback and exits with status 1.
SUCCESS, USER_ERROR, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 2 (user error) or 130 (Ctrl-C)."""
    _escape_unprintable()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except UserError as error:
        return _print_error(_with_flags(str(error), arguments))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            if _follows_an_error():
                return USER_ERROR
            raise
        return _print_error("out of memory: use fewer frames, a smaller size or, in training, a smaller batch size")
    except KeyboardInterrupt:
        print("\ncogvideox: interrupted; no incomplete files were left behind", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the pipe has exited (`cogvideox ... | head`), so the buffer cannot be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SUCCESS
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        return _print_error(f"{error.filename or 'the disk'}: {error.strerror}")
    except SystemExit as exit:  # raised by argparse for --help and --version
        return exit.code if isinstance(exit.code, int) else SUCCESS
    return SUCCESS


def _escape_unprintable() -> None:
    """Escape characters that stdout and stderr cannot encode, such as in file names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _dispatch(arguments: list[str]) -> None:
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help", "help"):
        print(_overview())
    elif command in ("-V", "--version"):
        print(f"cogvideox {__version__}")
    elif command in COMMANDS:
        import_module(_MODULES.get(command, f"cogvideox.cli.{command}")).run(arguments[1:])
    else:
        raise UserError(f"unknown command {command!r}{nearest(command, COMMANDS)}; available: {', '.join(COMMANDS)}")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {command:<{width}}  {summary}" for command, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cogvideox COMMAND [...]",
            "",
            *lines,
            "",
            "`cogvideox COMMAND --help` shows the options of a command, `cogvideox --version` the version.",
        ]
    )


def _with_flags(message: str, arguments: Sequence[str]) -> str:
    """Replace names of options by flags, for commands whose options the libraries know by their Python names."""
    if arguments[:1] and arguments[0] in _COMMANDS_WITH_OPTIONS:
        from cogvideox.cli.common.flags import to_flags

        return to_flags(message)
    return message


def _print_error(sentence: str) -> int:
    """Print an error in one line, in the first rank that fails if there are several. Returns the exit status."""
    if not _is_distributed() or import_module(_FAILURE).claim_report():
        print_message(" ".join(sentence.split()))  # join into one line
    return USER_ERROR


def _follows_an_error() -> bool:
    """Return whether a rank of the same run has printed an error, so that communication with it fails."""
    return _is_distributed() and import_module(_FAILURE).is_reported()


def _is_distributed() -> bool:
    return os.environ.get("WORLD_SIZE", "1") != "1"
