"""Keys, subject identifiers and pseudonyms."""

from __future__ import annotations

import pytest

from infra.control.identity import create_key, is_subject, load_key, load_or_create_key, pseudonym_of, subject_of
from infra.errors import TidegateError


def test_a_key_is_made_for_its_owner_alone_and_never_overwritten(tmp_path):
    """Mode 0600, 32 bytes, and a second creation is refused with the file unchanged."""
    path = tmp_path / "a" / "my.key"
    key = create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path) == key == load_or_create_key(path)
    with pytest.raises(TidegateError, match="never overwritten"):
        create_key(path)
    assert load_key(path) == key


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    """Group or others with any right: refused, with the command that mends it."""
    path = tmp_path / "my.key"
    create_key(path)
    path.chmod(mode)
    with pytest.raises(TidegateError, match="chmod 600"):
        load_key(path)


def test_what_is_no_key_is_refused(tmp_path):
    """A missing file, one of another size, a folder: each a clear error."""
    short = tmp_path / "short"
    short.write_bytes(b"x" * 31)
    short.chmod(0o600)
    for path, said in [(short, "31 bytes"), (tmp_path / "absent", "no key file"), (tmp_path, "cannot read")]:
        with pytest.raises(TidegateError, match=said):
            load_key(path)


def test_identifiers_are_stable_and_tell_keys_apart():
    """Fixed vectors: a changed derivation would make everybody a stranger."""
    assert subject_of(b"\x00" * 32) == "94c4d22162636ae7f64d3c92352b7f7e"
    assert pseudonym_of(b"\x01" * 32, "0" * 32) == "53ddafb94f2d04e3e96460b54a471d35"
    assert subject_of(b"\x02" * 32) != subject_of(b"\x00" * 32)
    assert pseudonym_of(b"\x02" * 32, "0" * 32) != pseudonym_of(b"\x01" * 32, "0" * 32)


def test_the_form_of_an_identifier():
    """32 lower-case hex digits and nothing else."""
    assert is_subject(subject_of(b"k" * 32))
    for wrong in ("", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 32 + "\n"):
        assert not is_subject(wrong)
