"""Download of models from the Hugging Face Hub. Needs `huggingface_hub` (extra `hub`)."""

from pathlib import Path

from cogvideox.errors import UserError

# Files of the diffusers and SAT layouts. Other formats of the same weights are not downloaded.
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.pt", "*latest"]


def download(name: str) -> Path:
    """Download a model to the shared Hugging Face cache and return its folder.

    Cached files are not downloaded again. Offline, the cache is used without checking for updates.

    Raises:
        UserError: `huggingface_hub` is not installed, the network is unavailable, or the model does not exist or is not
            accessible.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise UserError(
            f"the folder {name} does not exist; to download a model with this name from the Hugging Face Hub, "
            "install cogvideox[hub]"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except errors.GatedRepoError as error:
        reason, cause = "access is restricted: accept the terms on its page there, then log in", error
    except errors.RepositoryNotFoundError as error:
        reason, cause = "there is no such model, or it is private", error
    except errors.HFValidationError as error:
        reason, cause = "it is not a valid name", error
    except errors.LocalEntryNotFoundError as error:
        reason, cause = "it is not cached, and the Hub is not reachable", error
    except Exception as error:  # exception types of network libraries vary with the version of huggingface_hub
        reason, cause = f"{type(error).__name__}: {str(error).split(chr(10))[0]}", error
    raise UserError(
        f"the folder {name} does not exist, and downloading it from the Hugging Face Hub failed: {reason}"
    ) from cause
