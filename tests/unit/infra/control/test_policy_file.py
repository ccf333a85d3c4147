"""Policy files: the demo's is good, and every mistake is named with its line and the nearest known name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.control.policy_file import duration_ms, load_policy
from infra.control.records import decode, encode
from infra.errors import TidegateError
from tests.approvers import APPROVERS, DEMO, NOTICE, policy_file

NOW = 1_800_000_000_000
ANNA, BEN = (each.key for each in APPROVERS)


def load(tmp_path: Path, *changes: tuple[str, str]):
    return load_policy(policy_file(tmp_path, *changes), NOW)


def refusal(tmp_path: Path, *changes: tuple[str, str]) -> str:
    with pytest.raises(TidegateError) as refused:
        load(tmp_path, *changes)
    return str(refused.value)


def test_the_demo_policy_is_valid_once_it_has_approvers(tmp_path):
    """It says what the demo relies on; without approvers it is no policy, and says how to come by them."""
    policy = load(tmp_path)
    assert (policy.window_kind, policy.window_size_ms, policy.window_step_ms) == ("tumbling", 5_000, 5_000)
    assert (policy.lateness_ms, policy.grid_px, policy.resolution_ms) == (3_000, 8, 10)
    assert policy.approvers == APPROVERS
    assert policy.teams == ("support", "research")
    assert policy.notice_text == NOTICE.read_text()
    research = policy.purpose("usability-research")
    assert research is not None
    assert "keys" not in research.sources
    assert "key_class" not in research.fields
    with pytest.raises(TidegateError, match=r"demo\.yaml:56: approvers: needs two people.*tidegate keys new NAME"):
        load_policy(DEMO, NOW)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("key_class, role]", "keyclass, role]", "unknown field `keyclass`; did you mean `key_class`?"),
        ("focus, element]", "fokus, element]", "unknown source `fokus`; did you mean `focus`?"),
        ("usability-research:", "usability-reserch:", "did you mean `usability-research`?"),
        ("wheel_y, role]", "wheel_y, role, key_class]", "`key_class` may not serve usability-research"),
        ("notice:", "notise:", "unknown key `notise`; did you mean `notice`?"),
        ("file: notice-1.md", "fil: notice-1.md", "unknown key `fil`; did you mean `file`?"),
        ("file: notice-1.md", "file: notice-2.md", "notice-2.md: no such file"),
        (", file: notice-1.md", "", "needs its text"),
        ("file: notice-1.md", "text: ' '", "not empty"),
        ('{version: "1", file: notice-1.md}', '"1"', "notice: must be a mapping, with the keys version, file, text"),
        ("retention_days: 30", "retention: 30", "did you mean `retention_days`?"),
        ("  resolution: 10ms\n", "", "minimise.resolution: is missing"),
        ("until: 2036-01-01", "until: 2026-06-01", "has run out"),
        ("until: 2036-01-01", "until: 2025-06-01", "must come after from"),
        ("until: 2036-01-01", "until: 2036-01-01 10:00:00", "without a zone"),
        ("until: 2036-01-01", "until: 2036-13-01", "date"),
        ("size: 5s", "size: 5", "is not a duration"),
        ("size: 5s", "size: 0s", "must be positive"),
        ("size: 5s", "size: 5s\n  step: 2s", "only hopping windows have a step"),
        ("kind: tumbling", "kind: hopping", "needs a step"),
        ("kind: tumbling", "kind: hopping\n  step: 50ms", "at least 1/64 of the size"),
        ("size: 5s", "size: 25d", "24 days"),
        ("kind: tumbling", "kind: session", "needs a gap"),
        ("kind: tumbling", "kind: tumblin", "window.kind"),
        ("grid: 8px", "grid: 0", "at least 1px"),
        ("version: 1", "version: 1\nversion: 2", "stands twice"),
        ("version: 1", "version: [", "not YAML"),
        ("version: 1", "version: 4000000000", "version: is too large"),
        ("lateness: 3s", "lateness: 99999999999999d", "lateness: is too large"),
        ("lateness: 3s", f"lateness: {'9' * 400}s", "is not a duration"),
        ("version: 1", "version: one", "must be a whole number"),
        ("version: 1", "version: 0", "at least 1"),
        ("until: 2036-01-01", "until: 2036-02-30", "policy.yaml:12: valid.until: is not a date"),
        (f"  ben: {{key: {BEN}}}\n", "", "needs two people or more"),
        (BEN, ANNA, "approvers.ben.key: is the key of anna too"),
        (BEN, ANNA.upper(), "is the key of anna too"),
        (BEN, BEN[:-1], "neither 64 hex digits nor the name of a .pub file; `tidegate keys new NAME`"),
        (BEN, "ef" * 32, "no Ed25519 public key"),
        (BEN, "ben.pub", "ben.pub: no such file"),
        (BEN, "ben.key", "names a private key; name its .pub file, ben.pub"),
        (f"{BEN}}}", f"{BEN}, until: 2026-01-01}}", "the signature of ben no longer counts"),
        (f"{BEN}}}", f"{BEN}, til: 2026-01-01}}", "unknown key `til`; did you mean `until`?"),
        ("  ben: {", "  anna: {", "approvers.anna: stands twice"),
        ("[support, research]", "[support, support]", "`support` stands twice"),
        ("[support, research]", "support", "teams: must be a list"),
    ],
)
def test_a_mistake_is_named_with_file_and_path(tmp_path, old, new, said):
    """One mistake in the demo's policy: refused, in words that lead to it."""
    refused = refusal(tmp_path, (old, new))
    assert said in refused
    assert "policy.yaml" in refused


def test_the_line_is_right_and_all_mistakes_are_shown_at_once(tmp_path):
    """A typo in a key, a length, a date that has passed, a field and a key: five problems, each at its line."""
    changes = [
        ("size: 5s", "size: soon"),
        ("retention_days: 90", "retention_day: 90"),
        ("until: 2036-01-01", "until: 2026-05-01"),
        ("key_class, role]", "keyclass, role]"),
        (BEN, BEN[:-2]),
    ]
    refused = refusal(tmp_path, *changes)
    lines = [int(line.split(":")[1]) for line in refused.splitlines()[1:]]
    text = (tmp_path / "policy.yaml").read_text().splitlines()
    assert lines == sorted(n for n, line in enumerate(text, 1) if any(new in line for _, new in changes)), refused
    assert "5 problems" in refused


def test_a_key_in_a_file_of_its_own_is_read(tmp_path):
    """The name of a .pub file stands for what it holds; what holds something else is named."""
    (tmp_path / "ben.pub").write_text(BEN + "\n")
    assert load(tmp_path, (BEN, "ben.pub")).approvers == APPROVERS
    (tmp_path / "ben.pub").write_text("ssh-ed25519 AAAA\n")
    assert "ben.pub does not hold 64 hex digits" in refusal(tmp_path, (BEN, "ben.pub"))


def test_an_empty_notice_and_one_that_nobody_reads_are_refused(tmp_path):
    """The file is there, but says nothing, or more than anybody reads; inline text does as well as a file."""
    policy_file(tmp_path)
    for text, said in ((b"\n", "is empty"), (b"a" * 70_000, "longer than 64 KiB"), (b"\xff", "not UTF-8")):
        (tmp_path / "long.md").write_bytes(text)
        assert said in refusal(tmp_path, ("notice-1.md", "long.md"))
    policy = load(tmp_path, ("file: notice-1.md", "text: You may say no."))
    assert policy.notice_text == "You may say no."


@pytest.mark.parametrize("text", ["", "- 1", "just words", "\x00", "a: !!python/object:os.system {}"])
def test_what_is_no_policy_at_all_is_refused(tmp_path, text):
    """Nothing, a list, prose, control characters, a foreign tag: a clear error each."""
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(TidegateError, match=r"p\.yaml"):
        load_policy(path, NOW)


def test_a_file_that_is_not_there_is_named(tmp_path):
    """The path stands in the error."""
    with pytest.raises(TidegateError, match=r"absent\.yaml"):
        load_policy(tmp_path / "absent.yaml", NOW)


def test_hopping_and_session_windows_can_be_said(tmp_path):
    """Both kinds are read with their own settings."""
    hopping = load(tmp_path, ("kind: tumbling", "kind: hopping\n  step: 2.5s"))
    assert (hopping.window_step_ms, hopping.window_gap_ms) == (2_500, 0)
    session = load(tmp_path, ("kind: tumbling", "kind: session\n  gap: 3s"))
    assert (session.window_step_ms, session.window_gap_ms) == (5_000, 3_000)


def test_durations_as_people_write_them():
    """Units from ms to days; a bare number is refused, since nobody knows its unit."""
    assert [duration_ms(d) for d in ("5ms", "10s", "1.5 min", "2h", "1d")] == [5, 10_000, 90_000, 7_200_000, 86_400_000]
    for wrong in (10, "10", "ten s", "-1s", "1w"):
        with pytest.raises(ValueError, match="duration"):
            duration_ms(wrong)


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["5s", "2026-01-01", ANNA]),
)
_NODES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_SCALARS, inner, max_size=2)
)


def _places(node, at=()):
    yield at
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _places(value, (*at, key))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.randoms(use_true_random=False), _NODES), min_size=1, max_size=3))
def test_whatever_stands_in_a_file_it_is_a_policy_or_a_clear_error(tmp_path_factory, spoilings):
    """Any part of a good file replaced by anything that YAML can hold: refused by a line, or encodable; no traceback."""
    folder = tmp_path_factory.getbasetemp() / "spoilt"
    path = policy_file(folder)
    raw = yaml.safe_load(path.read_text())
    for random, node in spoilings:
        *way, last = random.choice(list(_places(raw))[1:])
        inner = raw
        for step in way:
            inner = inner[step]
        inner[last] = node
    path.write_text(yaml.safe_dump(raw))
    try:
        policy = load_policy(path, NOW)
    except TidegateError as refused:
        said = str(refused)
    else:
        said = f"{path} can be encoded" if decode("control.policy", encode(policy)) == policy else ""
    assert str(path) in said
