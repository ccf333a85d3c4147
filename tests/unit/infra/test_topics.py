"""The topic catalogue keeps its rules, and each rule can fail."""

import dataclasses

import pytest
import yaml

from infra import topic_rules, topics
from infra.errors import TidegateError
from schemas import catalogue

ALL = {topic.name: topic for topic in topics.load()}


def found(*changed, without=()):
    """The problems of the catalogue with some topics replaced or left out."""
    listed = {k: v for k, v in ALL.items() if k not in without} | {t.name: t for t in changed}
    return topic_rules.problems(list(listed.values()), catalogue.names())


def changed(name, **values):
    return dataclasses.replace(ALL[name], **values)


def test_the_catalogue_keeps_its_own_rules():
    """The topics as shipped break nothing."""
    assert found() == []


def test_the_catalogue_and_the_schemas_agree():
    """Each topic's schema is the one that the schema catalogue names for it, and no topic is missing."""
    assert {name: topic.schema for name, topic in ALL.items()} == dict(catalogue.SUBJECTS_OF_TOPICS)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("interactions.raw", {"retention_hours": 49}, "at most 48 hours"),
        ("interactions.raw", {"retention_hours": "forever"}, "unbounded"),
        ("interactions.raw", {"readers": ("minimiser", "platform")}, "only the minimiser"),
        ("interactions.raw", {"readers": ("windower",)}, "only the minimiser"),
        ("interactions.raw", {"timestamp": "CreateTime"}, "LogAppendTime"),
        ("interactions.raw", {"timestamp": "Whenever"}, "LogAppendTime or CreateTime"),
        ("interactions.raw", {"partitions": 5}, "as many partitions"),
        ("interactions.raw", {"dead_letter": "none"}, "no dead letter"),
        ("interactions.raw", {"dead_letter": "interactions.nowhere"}, "no topic of the catalogue"),
        ("interactions.raw", {"encoding": "single-object"}, "wire format"),
        ("interactions.minimized", {"owner": " "}, "no owner"),
        ("interactions.minimized", {"purpose": ""}, "no purpose"),
        ("interactions.minimized", {"schema": "absent"}, "not in the catalogue"),
        ("interactions.minimized", {"readers": ()}, "names no readers"),
        ("interactions.minimized", {"readers": ("analyst-intern",)}, "is no role"),
        ("interactions.minimized", {"retention_hours": 0}, "at least an hour"),
        ("interactions.minimized", {"retention_hours": "long"}, "hours or `forever`"),
        ("interactions.minimized", {"cleanup": "shred"}, "delete or compact"),
        ("interactions.minimized", {"partitions": 0}, "at least one partition"),
        ("control.switch", {"partitions": 2}, "one partition"),
        ("control.switch", {"cleanup": "compact"}, "kept whole"),
        ("control.policy", {"retention_hours": 1}, "kept whole"),
        ("control.consent", {"timestamp": "CreateTime"}, "LogAppendTime"),
        ("interactions.minimized", {"retention_hours": "forever"}, "unbounded"),
        ("control.switch", {"encoding": "registry"}, "needs no registry"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(name, values, says):
    """Each rule fails on a topic that breaks it, and names the topic."""
    problems = found(changed(name, **values))
    assert any(problem.startswith(name) or name in problem for problem in problems)
    assert any(says in problem for problem in problems)


def test_a_topic_described_twice_is_named():
    """Two files for one topic are refused: nobody could say which one holds."""
    assert "described in two files" in topic_rules.problems([*ALL.values(), ALL[topics.RAW]], catalogue.names())[0]


def test_a_missing_topic_is_named():
    """A catalogue without the minimised topic is not Tidegate's."""
    assert f"{topics.MINIMIZED}: is not in the catalogue" in found(without=(topics.MINIMIZED,))


def test_a_role_that_nobody_has_is_no_reader():
    """Every reader and writer of the catalogue is a known role."""
    assert {role for t in ALL.values() for role in (*t.readers, *t.writers)} <= set(topic_rules.ROLES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"retention_hours": None}, "`retention_hours` must be int or str"),
        ({"partitions": "four"}, "`partitions` must be int"),
        ({"partitions": True}, "`partitions` must be int"),
        ({"readers": "minimiser"}, "`readers` must be a list"),
        ({"retentoin": 1}, "unknown field `retentoin`"),
    ],
)
def test_a_malformed_file_is_refused_by_field(tmp_path, change, says):
    """A wrong type or a typo in a field names file and field."""
    fields = yaml.safe_load((topics.FOLDER / "interactions.raw.yaml").read_text())
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(fields | change))
    with pytest.raises(TidegateError, match=says) as caught:
        topics.load(tmp_path)
    assert "t.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a list", "name: [", "\x00"])
def test_a_file_that_is_no_topic_is_refused(tmp_path, text):
    """An empty, unreadable or otherwise shaped file gives one clear sentence."""
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(TidegateError, match=r"t\.yaml"):
        topics.load(tmp_path)


def test_no_files_are_an_error(tmp_path):
    """An empty catalogue is a broken installation, not a catalogue without problems."""
    with pytest.raises(TidegateError, match="no topic files"):
        topics.load(tmp_path)


def test_a_broker_that_is_not_there_is_named(capfd):
    """No broker: its address is named within seconds, and librdkafka writes nothing of its own."""
    with pytest.raises(TidegateError, match=r"127\.0\.0\.1:1 does not answer"):
        topics.plan("127.0.0.1:1", topics.load())
    assert capfd.readouterr().err == ""
