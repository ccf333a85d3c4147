"""Keys in files: made once, for their owner alone, found by name, and looked at with suspicion."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from infra.control import keyring, signing
from infra.errors import TidegateError
from tests.approvers import ANNA, BEN, write_keys


@pytest.fixture
def keys(tmp_path, monkeypatch) -> Path:
    """The folder of keys, which is not there yet."""
    folder = tmp_path / "somewhere" / "keys"
    monkeypatch.setenv("TIDEGATE_KEYS", str(folder))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_for_its_owner_alone(keys):
    """The folder is 0700, the key 0600, and the .pub file holds the public half, in hex."""
    made = keyring.create("anna", keyring.folder())
    assert (mode(keys), mode(keys / "anna.key")) == (0o700, 0o600)
    assert (keys / "anna.pub").read_text() == f"{made.public}\n"
    assert signing.public_of(*keyring.load(["anna"])) == made.public
    assert keyring.pairs(keys) == [made]


def test_nothing_is_overwritten(keys):
    """Neither a key nor a public half that is there; both stay as they are."""
    keyring.create("anna", keys)
    (keys / "ben.pub").write_text("somebody's")
    before = {path.name: path.read_bytes() for path in keys.iterdir()}
    for name in ("anna", "ben"):
        with pytest.raises(TidegateError, match="never overwritten"):
            keyring.create(name, keys)
    assert {path.name: path.read_bytes() for path in keys.iterdir()} == before


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-x", "a" * 65, "a.key", "ä"])
def test_a_name_that_is_none_is_refused(keys, name):
    """Nothing that leads out of the folder, or that a shell or a policy would take for something else."""
    with pytest.raises(TidegateError) as refused:
        keyring.create(name, keys)
    assert refused.value.code == 2
    assert not keys.exists()


def test_a_folder_that_others_may_write_to_is_refused(keys):
    """They could put a key of theirs in the place of one's own; no key is made there."""
    keys.mkdir(parents=True)
    keys.chmod(0o770)
    with pytest.raises(TidegateError, match="chmod 700"):
        keyring.create("anna", keys)
    assert list(keys.iterdir()) == []


def test_a_key_is_named_by_name_or_by_path(keys, tmp_path):
    """By its name in the folder, or by the path of a file anywhere."""
    keys.mkdir(parents=True)
    write_keys(keys)
    path, _ = write_keys(tmp_path)
    assert keyring.load(["anna", "ben", path]) == [ANNA, BEN, ANNA]


def test_a_key_that_is_not_there_is_refused_with_the_nearest_that_is(keys):
    """By name, with the nearest in the folder; by path, with the path."""
    keys.mkdir(parents=True)
    write_keys(keys)
    with pytest.raises(TidegateError, match=r"unknown key `ana`; did you mean `anna`\?.*tidegate keys new"):
        keyring.load(["anna", "ana"])
    with pytest.raises(TidegateError, match=r"/nowhere/x\.key"):
        keyring.load(["/nowhere/x.key"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "anna.key").chmod(0o640), "can be read by others"),
        (lambda folder: (folder / "anna.key").write_bytes(b"abc"), "3 bytes"),
        (lambda folder: (folder / "anna.pub").write_text(signing.public_of(BEN)), "another key"),
        (lambda folder: (folder / "anna.pub").write_text("ssh-ed25519 AAAA"), "does not hold 64 hex digits"),
    ],
)
def test_what_is_wrong_with_a_key_is_told_beside_its_name(keys, spoil, said):
    """Every key of the folder is listed, the sound one without a word."""
    keys.mkdir(parents=True)
    write_keys(keys)
    spoil(keys)
    anna, ben = keyring.pairs(keys)
    assert said in anna.problem
    assert (ben.public, ben.problem) == (signing.public_of(BEN), "")


def test_anothers_public_half_is_listed_as_that(keys):
    """A .pub file without its key is somebody else's; it is no problem, and its key can be named in a policy."""
    keys.mkdir(parents=True)
    (keys / "ben.pub").write_text(signing.public_of(BEN).upper())
    assert keyring.pairs(keys) == [keyring.Pair("ben", None, signing.public_of(BEN))]
    assert keyring.public_of("ben") == ("ben", signing.public_of(BEN))
    with pytest.raises(TidegateError, match=r"cannot read .*carl\.pub"):
        keyring.public_of(str(keys / "carl.pub"))


def test_no_folder_is_no_keys(keys):
    """Before the first key there is nothing to list, and nothing to complain of."""
    assert keyring.pairs(keys) == []
