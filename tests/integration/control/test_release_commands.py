"""`tidegate switch release`: two different people, and nothing else that would do."""

from __future__ import annotations

from tests.approvers import EVE
from tests.switching import ALL, WAIT, engage, engaged, refused, release


def test_two_approvers_release_one_after_the_other(plane, policy, gate):
    """The first proposes and learns who else may sign and how; the second needs a key alone; then a new epoch."""
    keeper = gate("minimiser")
    engage(plane, *ALL, *WAIT, "--id", "s")
    engage(plane, "--scope", "source:keys", "--reason", "x", *WAIT, "--id", "keys")
    proposed = release(plane, "s", "--reason", "mended", "--key", "anna", code=3)
    assert (proposed["engaged"], proposed["signed_by"], proposed["may_sign"]) == (True, ["anna"], ["ben"])
    assert proposed["next"] == "tidegate switch release s --key ben"
    assert keeper.view().state.switches["s"].engaged
    listed = plane.run("switch", "list").stdout
    assert '"mended"' in listed
    assert proposed["next"] in listed
    done = release(plane, "s", "--key", "ben", *WAIT)
    assert (done["complete"], done["epoch"], done["signed_by"]) == (True, 1, ["anna", "ben"])
    assert (done["reason"], done["by"], done["still_engaged"]) == ("mended", "anna", ["keys"])
    assert not keeper.view().state.switches["s"].engaged
    assert engaged(plane) == ["keys"]
    assert plane.json("switch", "list")["ignored"] == {}, "a proposal that was completed was not ignored"


def test_two_keys_release_in_one_command_and_what_else_stops_is_said(plane, policy):
    """Both at once; engaged again under the same name, the old signatures are worth nothing."""
    engage(plane, *ALL, "--id", "s")
    engage(plane, "--scope", "source:keys", "--reason", "x", "--id", "keys")
    done = plane.run("switch", "release", "s", "--reason", "mended", "--key", "anna", "--key", "ben")
    assert done.returncode == 0, done.stderr
    assert "1 switch still engaged: keys stops source keys." in done.stdout
    engage(plane, *ALL, "--id", "s")
    assert "a reason is needed" in refused(plane, "release", "s", "--key", "anna", "--key", "ben", code=2)
    assert set(engaged(plane)) == {"keys", "s"}


def test_a_release_that_may_not_be_is_refused_in_words_and_changes_nothing(plane, policy, tmp_path):
    """One person twice, the engager alone, an expired, unknown or open key, no key, no reason, nothing to release."""
    engage(plane, *ALL, "--id", "s", "--by", "anna")
    open_key = tmp_path / "open.key"
    open_key.write_bytes(EVE)
    open_key.chmod(0o644)
    twin = tmp_path / "twin.key"
    twin.write_bytes(b"a" * 32)
    twin.chmod(0o600)
    why = ("--reason", "x")
    for words, said, code in [
        (("s", *why, "--key", "anna", "--key", str(twin)), "one and the same key", 1),
        (("s", *why, "--key", "anna"), "anna engaged s", 1),
        (("s", *why, "--key", "ben", "--key", "old"), "has run out", 1),
        (("s", *why, "--key", "eve", "--key", "ben"), "is no approver's", 1),
        (("s", *why, "--key", str(open_key)), "can be read by others", 1),
        (("s", *why, "--key", "bem"), "`ben`", 1),
        (("s", *why), "two different approvers", 2),
        (("s", "--reason", "", "--key", "ben"), "a reason is needed", 2),
        (("sss", *why, "--key", "ben"), "`s`", 1),
    ]:
        assert said in refused(plane, "release", *words, code=code), words
    shown = plane.json("switch", "show", "s")
    assert (shown["engaged"], shown["pending"], len(shown["history"])) == (True, None, 1)
    release(plane, "s", *why, "--key", "ben", code=3)
    assert "second, different person (anna)" in refused(plane, "release", "s", "--key", "ben")
    assert "leave --reason out" in refused(plane, "release", "s", "--reason", "y", "--key", "anna")
    assert release(plane, "s", "--key", "anna")["signed_by"] == ["anna", "ben"]
    assert "is not engaged" in refused(plane, "release", "s", *why, "--key", "anna", "--key", "ben")


def test_who_proposed_may_give_another_reason(plane, policy):
    """The new proposal takes the place of the old one, and is what the second person signs."""
    engage(plane, *ALL, "--id", "s")
    release(plane, "s", "--reason", "one", "--key", "anna", code=3)
    assert release(plane, "s", "--reason", "two", "--key", "anna", code=3)["reason"] == "two"
    assert release(plane, "s", "--key", "ben")["reason"] == "two"
