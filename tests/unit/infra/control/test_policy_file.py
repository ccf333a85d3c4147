"""Policy files: the demo's is good, and every mistake is named with its line and the nearest known name."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.control.policy_file import duration_ms, load_policy
from infra.errors import TidegateError

DEMO = Path(__file__).parents[4] / "infra" / "policies" / "demo.yaml"
NOW = 1_800_000_000_000


def load(tmp_path: Path, *changes: tuple[str, str]):
    text = DEMO.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return load_policy(path, NOW)


def test_the_demo_policy_is_valid():
    """It says what the demo relies on."""
    policy = load_policy(DEMO, NOW)
    assert (policy.window_kind, policy.window_size_ms, policy.window_step_ms) == ("tumbling", 5_000, 5_000)
    assert (policy.lateness_ms, policy.grid_px, policy.resolution_ms) == (3_000, 8, 10)
    research = policy.purpose("usability-research")
    assert research is not None
    assert "keys" not in research.sources
    assert "key_class" not in research.fields


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("key_class, role]", "keyclass, role]", "unknown field `keyclass`; did you mean `key_class`?"),
        ("focus, element]", "fokus, element]", "unknown source `fokus`; did you mean `focus`?"),
        ("usability-research:", "usability-reserch:", "did you mean `usability-research`?"),
        ("wheel_y, role]", "wheel_y, role, key_class]", "`key_class` may not serve usability-research"),
        ("notice:", "notise:", "unknown key `notise`; did you mean `notice`?"),
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
    ],
)
def test_a_mistake_is_named_with_file_and_path(tmp_path, old, new, said):
    """One mistake in the demo's policy: refused, in words that lead to it."""
    with pytest.raises(TidegateError) as refused:
        load(tmp_path, (old, new))
    assert said in str(refused.value)
    assert "policy.yaml" in str(refused.value)


def test_the_line_is_right_and_all_mistakes_are_shown_at_once(tmp_path):
    """Two mistakes give two problems, each at the line where it stands."""
    with pytest.raises(TidegateError) as refused:
        load(tmp_path, ("size: 5s", "size: soon"), ("retention_days: 90", "retention_days: many"))
    lines = {line.split(":")[1] for line in str(refused.value).splitlines()[1:]}
    text = DEMO.read_text().splitlines()
    expected = {str(n) for n, line in enumerate(text, 1) if "size: 5s" in line or "retention_days: 90" in line}
    assert lines == expected


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
