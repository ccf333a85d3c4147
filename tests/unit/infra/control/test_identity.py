"""Keys, subject identifiers and pseudonyms."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from infra.control.identity import (
    create_key,
    is_subject,
    load_key,
    load_or_create_key,
    new_key,
    pseudonym_of,
    subject_of,
    subject_of_public,
)
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
    """A missing file, one of another size, a folder, a device, a pipe, no name: each a clear error, and at once."""
    short, pipe = tmp_path / "short", tmp_path / "pipe"
    short.write_bytes(b"x" * 31)
    short.chmod(0o600)
    os.mkfifo(pipe, 0o600)
    refused = {short: "31 bytes", tmp_path / "absent": "no key file", tmp_path: "cannot read", pipe: "not a file"}
    refused |= {Path("/dev/zero"): "not a file", Path("a\0b"): "cannot read"}
    for path, said in refused.items():
        with pytest.raises(TidegateError, match=said):
            load_key(path)


def test_a_key_can_be_drawn_before_it_is_kept(tmp_path):
    """What was drawn is what is written; a folder that cannot be made is named."""
    key = new_key()
    assert create_key(tmp_path / "my.key", key) == key == load_key(tmp_path / "my.key")
    (tmp_path / "file").touch()
    with pytest.raises(TidegateError, match="cannot make the folder"):
        create_key(tmp_path / "file" / "my.key")


def test_a_key_that_cannot_be_written_whole_is_not_there(tmp_path):
    """A disk that takes half of it: a clear error, and no half a key in the way of the next try."""
    path = tmp_path / "my.key"
    code = (
        "import resource, sys; from pathlib import Path; from infra.control.identity import create_key\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))\n"
        "try: create_key(Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"TidegateError cannot write the key file {path}")
    assert not path.exists()


def test_identifiers_are_stable_and_tell_keys_apart():
    """Fixed vectors: a changed derivation would make everybody a stranger."""
    assert subject_of(b"\x00" * 32) == "d9e6fc6decb0770f72938cba8e1218be"
    assert pseudonym_of(b"\x01" * 32, "0" * 32) == "53ddafb94f2d04e3e96460b54a471d35"
    assert subject_of(b"\x02" * 32) != subject_of(b"\x00" * 32)
    assert pseudonym_of(b"\x02" * 32, "0" * 32) != pseudonym_of(b"\x01" * 32, "0" * 32)


def test_an_identifier_comes_from_the_public_half_alone():
    """Whoever checks a signature can tell whose it is, with hashlib and any library for Ed25519."""
    public = SigningKey(b"k" * 32).verify_key.encode()
    derived = hashlib.blake2b(public, digest_size=16, person=b"tidegate-subj").hexdigest()
    assert subject_of(b"k" * 32) == subject_of_public(public.hex()) == derived


def test_the_form_of_an_identifier():
    """32 lower-case hex digits and nothing else."""
    assert is_subject(subject_of(b"k" * 32))
    for wrong in ("", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 32 + "\n"):
        assert not is_subject(wrong)
