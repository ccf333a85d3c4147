"""Who a subject is to the system: an identifier that only their own machine can compute.

A subject's key is 32 random bytes in a file that nobody else may read: the seed of
an Ed25519 key (RFC 8032), with which they sign what they say. The identifier is
derived from its public half and is what control topics and raw batches carry. The
minimiser turns it into a pseudonym with a key of its own, and from there on only
the pseudonym exists. Approvers' keys are of the same kind.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path

from nacl.bindings import crypto_sign_seed_keypair

from infra.errors import TidegateError

KEY_BYTES = 32
_PERSON = b"tidegate-subj"
"""Sets these digests apart from any other use of BLAKE2b on the same key."""
_SUBJECT = re.compile(r"[0-9a-f]{32}")


def new_key() -> bytes:
    """Return a new random key, which is nowhere yet."""
    return secrets.token_bytes(KEY_BYTES)


def create_key(path: Path, key: bytes | None = None) -> bytes:
    """Write a key, a new one unless it is given, to `path`, readable by its owner alone, and return it.

    Raises TidegateError when the file is already there: a key is never overwritten;
    and when it cannot be written whole: then it is not there.
    """
    key = new_key() if key is None else key
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TidegateError(f"cannot make the folder of the key file {path}: {error.strerror}.") from error
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise TidegateError(f"{path} is there already; a key is never overwritten. Choose another name.") from error
    except OSError as error:
        raise TidegateError(f"cannot write the key file {path}: {error.strerror}.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(key)
            file.flush()
            # What is signed with it may stand before the machine loses power.
            os.fsync(handle)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise TidegateError(f"cannot write the key file {path}: {error.strerror}.") from error
    return key


def load_key(path: Path) -> bytes:
    """Return the key in `path`.

    Raises TidegateError when it is not there, is not a file of 32 bytes, or can be read by others.
    """
    try:
        # Not to wait: a pipe of that name would keep the command for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            found = os.fstat(file.fileno())
            key = file.read(KEY_BYTES + 1) if stat.S_ISREG(found.st_mode) else None
    except FileNotFoundError as error:
        raise TidegateError(
            f"there is no key file {path}. `tidegate consent grant --create-key` makes a subject's, "
            "`tidegate keys new` an approver's."
        ) from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "that is no name of a file"
        raise TidegateError(f"cannot read the key file {path}: {why}.") from error
    if key is None:
        raise TidegateError(f"{path} is not a file, so it is not a key.")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise TidegateError(f"the key file {path} can be read by others. Run `chmod 600 {path}`.")
    if len(key) != KEY_BYTES:
        raise TidegateError(f"the key file {path} holds {found.st_size} bytes, a key has {KEY_BYTES}. It is not a key.")
    return key


def load_or_create_key(path: Path) -> bytes:
    """Return the key in `path`, made now when the file is not there. Raises TidegateError as the other two do."""
    return load_key(path) if path.exists() else create_key(path)


def subject_of(key: bytes) -> str:
    """Return the subject identifier of a key file's 32 bytes: 32 hex digits."""
    return subject_of_public(crypto_sign_seed_keypair(key)[0].hex())


def subject_of_public(public: str) -> str:
    """Return the subject identifier of a public key (hex): BLAKE2b (RFC 7693) of 16 bytes, personalised.

    Raises ValueError for what is no hex.
    """
    return hashlib.blake2b(bytes.fromhex(public), digest_size=16, person=_PERSON).hexdigest()


def is_subject(text: str) -> bool:
    """Whether `text` has the form of a subject identifier or a pseudonym: 32 lower-case hex digits."""
    return _SUBJECT.fullmatch(text) is not None


def pseudonym_of(key: bytes, subject: str) -> str:
    """Return the pseudonym of a subject under the minimiser's key: 32 hex digits of HMAC-SHA256 (RFC 2104)."""
    return hmac.new(key, subject.encode(), hashlib.sha256).hexdigest()[:32]
