"""What a worker is told, and the key that it must be able to read alone."""

from __future__ import annotations

import pytest

from infra.errors import TidegateError
from streams.settings import WorkerSettings, read_pseudonym_key


def test_a_wrong_setting_is_named(monkeypatch):
    """A value out of range names its variable and ends with a usage error."""
    monkeypatch.setenv("TIDEGATE_SESSION_TIMEOUT_SECONDS", "1")
    with pytest.raises(TidegateError, match="TIDEGATE_SESSION_TIMEOUT_SECONDS") as caught:
        WorkerSettings.from_environment()
    assert caught.value.code == 2


def test_the_key_must_be_there_whole_and_private(tmp_path):
    """A key file that is missing, open to others or of the wrong size is refused."""
    path = tmp_path / "pseudonym.key"
    with pytest.raises(TidegateError, match="there is no pseudonym key"):
        read_pseudonym_key(path)
    path.write_bytes(b"k" * 32)
    path.chmod(0o640)
    with pytest.raises(TidegateError, match="chmod 600"):
        read_pseudonym_key(path)
    path.chmod(0o600)
    assert read_pseudonym_key(path) == b"k" * 32
    path.write_bytes(b"short")
    with pytest.raises(TidegateError):
        read_pseudonym_key(path)
