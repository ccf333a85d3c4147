"""The directory of teams: what it may hold, who may read it, and that its errors name nobody."""

from __future__ import annotations

import pytest

from infra.control.teams import load_teams, own_team, read_teams
from infra.errors import TidegateError

ANN, BOB, CAT = "0a" * 16, "1" * 32, "9e" * 16


@pytest.fixture
def directory(tmp_path):
    """Writes a teams file that only its owner can read."""

    def write(text: str, mode: int = 0o600):
        path = tmp_path / "teams.yaml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def test_everybody_has_the_team_they_stand_in(directory):
    """By subject, whatever YAML would make of an identifier of digits; a team without people is one too."""
    path = directory(f"support: [{ANN}, {BOB}]\nresearch:\n  - {CAT}\n  - {CAT}\nempty: []\n")
    assert read_teams(path) == {ANN: "support", BOB: "support", CAT: "research"}
    assert read_teams(directory("# nobody yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"support: [{ANN}]\nresearch:\n  - {CAT}\n  - {ANN}\n", ":4: the subject 0a0a0a… is in two teams, support (line 1)"),
        ("support:\n  - Ann Lindqvist\n", ":2: this member of support is no subject identifier"),
        ("support:\n  - [x]\n", ":2: this member"),
        (f"support: {ANN}\n", ":1: the team support needs a list"),
        (f"- {ANN}\n", ":1: a teams file holds"),
        (f"support: [{ANN}]\nsupport: [{BOB}]\n", ":2: the team support stands twice"),
        ("'': []\n", ":1: the name of a team"),
        ("support: [\n  Ann Lindqvist: {\n", ":3: not YAML"),
        ("support: [\x00]\n", ": not YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_line(directory, text, said):
    """Never by the identifier in full, nor by what stands in its place, which may be a name."""
    path = directory(text)
    with pytest.raises(TidegateError) as refused:
        read_teams(path)
    assert f"{path}{said}" in str(refused.value)
    assert not any(secret in str(refused.value) for secret in (ANN, BOB, CAT, "Lindqvist"))


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_directory_that_others_can_read_is_refused(directory, mode):
    """It ties identifiers to an organisation; the error has the command that mends it."""
    with pytest.raises(TidegateError, match="chmod 600"):
        read_teams(directory("support: []\n", mode))


def test_where_the_directory_is_looked_for(directory, tmp_path):
    """In the home unless TIDEGATE_TEAMS names another; absent there is nobody in a team, absent where named is an error."""
    path = directory(f"support: [{ANN}]\n")
    assert load_teams(tmp_path, {}) == {ANN: "support"}
    assert load_teams(tmp_path / "other", {}) == {}
    assert load_teams(tmp_path / "other", {"TIDEGATE_TEAMS": str(path)}) == {ANN: "support"}
    for wrong in (tmp_path / "absent", tmp_path):
        with pytest.raises(TidegateError, match="cannot read the teams file"):
            load_teams(tmp_path, {"TIDEGATE_TEAMS": str(wrong)})


def test_a_producer_knows_its_own_team_and_no_more():
    """TIDEGATE_TEAM holds for its own subjects; without it, it does not know, and may be in any."""
    assert own_team([ANN, BOB], {"TIDEGATE_TEAM": "support"}) == {ANN: "support", BOB: "support"}
    assert own_team([ANN], {}) == own_team([ANN], {"TIDEGATE_TEAM": " "}) == {}
