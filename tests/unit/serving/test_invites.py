"""Invitations: secrets are not stored, revoked links stop at once, other processes' changes are seen."""

import pytest

from cogvideox.errors import UserError
from cogvideox.serving.invites import Invites


def test_links_work_until_they_are_revoked(tmp_path):
    server, admin = Invites(tmp_path), Invites(tmp_path)
    (ann, secret), (_, other) = admin.invite(["Ann", "Bo"])
    assert server.find(secret) == ann and server.find("wrong") is None
    assert secret not in (tmp_path / "invites.json").read_text()
    admin.revoke("Ann")
    assert server.find(secret) is None and server.find(other) is not None
    with pytest.raises(UserError, match="nobody"):
        admin.revoke("Ann")
    ((again, _),) = admin.invite(["Ann"])
    assert again.number == 2 and again.id != ann.id
    with pytest.raises(UserError, match="empty"):
        admin.invite([" "])


def test_a_damaged_file_is_a_clear_error(tmp_path):
    (tmp_path / "invites.json").write_text("{")
    with pytest.raises(UserError, match="invitations"):
        Invites(tmp_path).people()
