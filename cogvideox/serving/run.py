"""Run an application with uvicorn: on loopback, or on other addresses if a key is set."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cogvideox.errors import UserError
from cogvideox.serving.limits import LOOPBACK, Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

MIN_KEY = 16


@dataclass(frozen=True)
class Address:
    """The address on which a server listens.

    Attributes:
        key: administrator key; required unless the host is loopback.

    Raises:
        UserError: no key, or a short one, for a host other than loopback.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    key: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"port={self.port} must be from 0 to 65535")
        if self.host not in LOOPBACK and not self.key:
            raise UserError(f"host {self.host} can be reached by other machines: set a key for the administrator")
        if self.key and len(self.key) < MIN_KEY:
            raise UserError(f"the administrator key must have at least {MIN_KEY} characters")

    @property
    def allowed_hosts(self) -> tuple[str, ...] | None:
        """Host names that requests may have; None accepts any."""
        return LOOPBACK if self.host in LOOPBACK else None

    @property
    def url(self) -> str:
        """URL of the server, for messages."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def serve(app: "FastAPI", address: Address, limits: Limits | None = None) -> None:
    """Serve an application until it is interrupted.

    Raises:
        UserError: the port is in use.
    """
    import socket

    import uvicorn

    from cogvideox.serving.slow_headers import protocol

    limits = limits or Limits()
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
        except OSError as error:
            raise UserError(f"cannot listen on {address.host}:{address.port}: {error.strerror}") from None
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.concurrency,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=32 * 1024,
            ws="none",
            http=protocol(limits.header_seconds),
        )
        uvicorn.Server(config).run(sockets=[listener])
