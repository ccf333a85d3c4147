"""What a start takes from its surroundings, and what it keeps from its parts."""

import pytest

from infra.errors import TidegateError
from infra.stack import launch, lock
from infra.stack.home import Home


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Makes a supervisor without starting anything; returns it with what was told."""
    monkeypatch.delenv("TIDEGATE_HOME", raising=False)

    def make(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        told = []
        settings = launch.Settings(tmp_path / "home", {"minimise": 1, "window": 1})
        with launch.supervisor(settings, lambda part, what: told.append(what)) as made:
            return made, told

    return make


def test_a_password_in_an_address_is_not_told(start):
    """An external address is named without the password that its URL may hold."""
    made, told = start(TIDEGATE_STORE="https://me:hunter2@store.example:8443")
    assert "store is not started: TIDEGATE_STORE points at https://store.example:8443" in told
    assert "hunter2" not in repr(told) + repr(made.snapshot()["notes"])


def test_parts_inherit_neither_the_key_nor_a_foreign_log(start, tmp_path):
    """Only the minimiser gets the key's path, the chosen one where one is chosen; the log's name is not inherited."""
    chosen = tmp_path / "elsewhere.key"
    made, _ = start(TIDEGATE_PSEUDONYM_KEY=str(chosen), TIDEGATE_LOG="9")
    env = {name: process._env for name, process in made._processes.items()}
    assert env["minimise-1"]["TIDEGATE_PSEUDONYM_KEY"] == str(chosen)
    assert [name for name, its in env.items() if str(chosen) in its.values()] == ["minimise-1"]
    assert all("TIDEGATE_LOG" not in its for its in env.values())
    assert {its["TIDEGATE_HOME"] for its in env.values()} == {str(tmp_path / "home")}


def test_the_home_is_given_back(start, tmp_path):
    """Whatever happens while it is held, the home is free afterwards."""
    start()
    assert not lock.running(tmp_path / "home")
    assert lock.last_holder(tmp_path / "home") is None


def test_one_home_has_one_supervisor(tmp_path):
    """While a supervisor has the home, another start is refused."""
    settings = launch.Settings(tmp_path / "home", {})
    with launch.supervisor(settings, lambda *_: None):
        with pytest.raises(TidegateError, match="already running"), launch.supervisor(settings, lambda *_: None):
            pass
        assert lock.running(tmp_path / "home")


def test_bringing_down_what_does_not_run_tidies_up(tmp_path):
    """Without a stack `down` does nothing; after a killed supervisor it removes the addresses it left."""
    home = Home(tmp_path / "home")
    home.prepare(0)
    assert launch.bring_down(home.root, lambda *_: None) is None
    home.write_state({"kafka": "k:1"})
    (home.root / lock.LOCK_FILE).write_text('{"pid": 4194304, "started_ms": 0}')
    told = []
    assert launch.bring_down(home.root, lambda part, what: told.append(what)) is None
    assert "pid 4194304" in told[0]
    assert home.read_state() == {}
