"""Report an error once per run of `torchrun`: by the first rank that fails."""

import os
from datetime import timedelta

from torch.distributed import TCPStore

_TIMEOUT = timedelta(seconds=5)


def claim_report() -> bool:
    """Return whether this process, one of several, reports its error: it is the first rank that fails.

    Without the store of `torchrun`, every rank reports its error.
    """
    try:
        return _store().add(_key(), 1) == 1
    except (RuntimeError, KeyError, ValueError):  # there is no store, or it has been closed
        return True


def is_reported() -> bool:
    """Return whether another rank reports an error, now or within seconds. Not known without the store: False.

    A rank closes its connections before it reports, which may be the cause of this rank's error.
    """
    try:
        _store().wait([_key()], _TIMEOUT)
    except (RuntimeError, KeyError, ValueError):
        return False
    return True


def _store() -> TCPStore:
    """Connect to the store of `torchrun`, which exists before its processes.

    Raises:
        KeyError, ValueError, RuntimeError: the processes were started by another program, or the store is closed.
    """
    if os.environ["TORCHELASTIC_USE_AGENT_STORE"] != "True":
        raise KeyError("rank 0 creates the store, perhaps never")
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=_TIMEOUT)


def _key() -> str:
    return f"cogvideox/error/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
