"""Invitation links: one per person, revocable. Only hashes of their secrets are stored, in `invites.json`.

Names are for the administrator. In votes and annotations a person has an id.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

from cogvideox.atomic_io import write_text
from cogvideox.errors import UserError
from cogvideox.untrusted.files import parse_json, read_text, reading

INVITES = "invites.json"


@dataclass(frozen=True)
class Person:
    """An invited person.

    Attributes:
        id: id in the data, such as "p3-4f2a".
        name: name for the administrator.
        number: position in the order of invitations, from 0.
        digest: SHA-256 of the secret in the link.
        revoked: whether the link no longer works.
    """

    id: str
    name: str
    number: int
    digest: str
    revoked: bool = False


class Invites:
    """The invitations in a folder. Changes by other processes are seen at once."""

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / INVITES
        self._version: tuple[int, int] | None = None
        self._people: list[Person] = []

    def people(self) -> list[Person]:
        """Return all people, in the order of invitation. Raises UserError if the file is damaged."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return []
        version = status.st_mtime_ns, status.st_ino
        if version != self._version:
            with reading(self.path, "not a list of invitations"):
                self._people = [Person(**entry) for entry in parse_json(read_text(self.path))]
            self._version = version
        return self._people

    def find(self, secret: str) -> Person | None:
        """Return the person with a link that is not revoked; None if there is none."""
        digest = _digest(secret)
        return next((p for p in self.people() if not p.revoked and secrets.compare_digest(p.digest, digest)), None)

    def invite(self, names: Sequence[str]) -> list[tuple[Person, str]]:
        """Invite people, and return each with the secret of the link, which is not stored.

        Raises:
            UserError: a name is empty, or the file cannot be written.
        """
        if not all(name.strip() for name in names):
            raise UserError("the name of an invited person is empty")
        invited = []
        with self._lock():
            people = list(self.people())
            for name in names:
                secret = secrets.token_urlsafe(18)
                id = f"p{len(people) + 1}-{secrets.token_hex(2)}"
                person = Person(id, name.strip(), len(people), _digest(secret))
                people.append(person)
                invited.append((person, secret))
            self._write(people)
        return invited

    def revoke(self, name: str) -> int:
        """Revoke the links of a person by name or id, and return their number.

        Raises:
            UserError: nobody with a valid link has this name or id.
        """
        with self._lock():
            people = self.people()
            chosen = [person for person in people if name in (person.name, person.id) and not person.revoked]
            if not chosen:
                raise UserError(f"nobody named {name!r} has a valid invitation")
            self._write([replace(person, revoked=person.revoked or person in chosen) for person in people])
        return len(chosen)

    def _lock(self) -> FileLock:
        return FileLock(str(self.path) + ".lock", timeout=10)

    def _write(self, people: Sequence[Person]) -> None:
        write_text(self.path, json.dumps([asdict(person) for person in people], indent=1, ensure_ascii=False) + "\n")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
