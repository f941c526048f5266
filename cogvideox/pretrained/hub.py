"""Models on the Hugging Face hub, by their name there. Needs `huggingface_hub` (extra `hub`) and, once, a network."""

from pathlib import Path

from cogvideox.errors import UserError

# What is fetched: the diffusers layout and SAT's. Other forms of the same weights are left there.
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.pt", "*latest"]


def download(name: str) -> Path:
    """The folder of a model on the hub, fetched into the cache that all programs of Hugging Face share.

    What is in the cache already is not fetched again, and without a network it is used as it is.

    Raises:
        UserError: the library is not installed, there is no network, there is no such model, it is not open to you.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise UserError(
            f"there is no folder {name}, and to fetch it as a name on the Hugging Face hub huggingface_hub is needed: "
            "install cogvideox[hub], or give the path of a folder"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except errors.GatedRepoError as error:
        reason, cause = "its owner asks you to accept terms on its page there, and to log in", error
    except errors.RepositoryNotFoundError as error:
        reason, cause = "there is no such model, or it is not public", error
    except errors.HFValidationError as error:
        reason, cause = "that is not a name there", error
    except errors.LocalEntryNotFoundError as error:
        reason, cause = "it was not fetched before, and the hub cannot be reached", error
    except Exception as error:  # of the network libraries below, which the hub's library changes with its version
        reason, cause = f"{type(error).__name__}: {str(error).split(chr(10))[0]}", error
    raise UserError(
        f"there is no folder {name}, and it cannot be fetched from the Hugging Face hub: {reason}"
    ) from cause
