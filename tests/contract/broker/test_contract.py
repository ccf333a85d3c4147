"""What the pipeline needs of any broker. Every one of these must hold on each."""

import dataclasses
import time

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from infra import topics

NOW = int(time.time() * 1000)


def test_a_partition_keeps_order_and_content(broker):
    """Messages of a partition come back in the order sent, numbered without gaps, byte for byte."""
    topic = broker.topic()
    values = [b"%d" % n * 50 for n in range(500)]
    assert broker.produce(topic, values) == list(range(500))
    found = broker.read(topic, 500)
    assert [message.offset() for message in found] == list(range(500))
    assert [message.value() for message in found] == values


def test_key_headers_and_device_time_come_back(broker):
    """Key, headers and a CreateTime timestamp are kept as they were sent."""
    topic = broker.topic(message_timestamp_type="CreateTime")
    broker.produce(topic, [b"v"], key="session-1", headers=[("h", b"\x00\xff")], timestamp=NOW - 5000)
    (message,) = broker.read(topic, 1)
    assert (message.key(), message.headers()) == (b"session-1", [("h", b"\x00\xff")])
    assert message.timestamp() == (1, NOW - 5000)


def test_a_record_without_value_is_kept(broker):
    """A tombstone arrives as one: key there, value None."""
    topic = broker.topic(cleanup_policy="compact")
    broker.produce(topic, [b"1", None], key="k")
    assert [(m.key(), m.value()) for m in broker.read(topic, 2)] == [(b"k", b"1"), (b"k", None)]


def test_the_last_record_of_a_key_is_there_on_a_compacted_topic(broker):
    """A gate that reads a compacted topic from the beginning ends with the last word of each key."""
    topic = broker.topic(cleanup_policy="compact")
    for round_ in range(3):
        for key in ("a", "b"):
            broker.produce(topic, [b"%d" % round_], key=key)
    last = {m.key(): m.value() for m in broker.read(topic, 6)}
    assert last == {b"a": b"2", b"b": b"2"}


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd", "gzip", "snappy"])
@pytest.mark.parametrize("idempotent", [False, True])
def test_compressed_and_idempotent_batches_come_back(broker, codec, idempotent):
    """Each compression, with and without the idempotent producer, reads back whole and once."""
    topic = broker.topic()
    values = [b"%d" % n + b"v" * 300 for n in range(200)]
    settings = {"compression_type": codec, "enable_idempotence": idempotent}
    assert broker.produce(topic, values, settings) == list(range(200))
    assert [message.value() for message in broker.read(topic, 200)] == values


def test_a_partition_can_be_named(broker):
    """What is sent to a partition number stands in that partition, and in no other."""
    topic = broker.topic(partitions=4)
    for partition in range(4):
        broker.produce(topic, [b"%d" % partition], partition=partition)
    assert [broker.read(topic, 1, partition)[0].value() for partition in range(4)] == [b"0", b"1", b"2", b"3"]


def test_a_seek_replays_the_same(broker):
    """Reading again from any offset gives the same messages: the log is the windower's state."""
    topic = broker.topic()
    broker.produce(topic, [b"%d" % n for n in range(100)])
    for offset in (0, 37, 99):
        found = broker.read(topic, 100 - offset, offset=offset)
        assert [m.value() for m in found] == [b"%d" % n for n in range(offset, 100)]


def test_readers_without_a_group_do_not_share(broker):
    """Two assigned readers each get everything, as every gate must."""
    topic = broker.topic()
    broker.produce(topic, [b"x"] * 10)
    assert len(broker.read(topic, 10)) == len(broker.read(topic, 10)) == 10


def test_a_waiting_reader_is_prompt_with_a_short_wait(broker):
    """With the control readers' fetch wait of 25 ms a new record arrives well inside the second that stopping may take."""
    topic = broker.topic()
    consumer = broker.consumer(fetch_wait_max_ms=25)
    consumer.assign([TopicPartition(topic, 0, 0)])
    for number in range(5):
        broker.produce(topic, [b"%d" % number])
        begun = time.monotonic()
        assert len(broker.take(consumer, 1)) == 1
        assert time.monotonic() - begun < 0.5


def test_a_group_shares_partitions_and_takes_over(broker):
    """Two members share all partitions without overlap; when one leaves, the other has them all."""
    topic = broker.topic(partitions=4)
    settings = {"group_id": topic, "session_timeout_ms": 6000, "heartbeat_interval_ms": 500}
    first, second = broker.consumer(**settings), broker.consumer(**settings)
    for member in (first, second):
        member.subscribe([topic])

    def held(member):
        member.poll(0.05)
        return {p.partition for p in member.assignment()}

    def until(condition):
        deadline = time.monotonic() + 40
        while not condition(held(first), held(second)):
            assert time.monotonic() < deadline, "the group does not settle"

    until(lambda one, two: len(one) == len(two) == 2 and not one & two)
    second.unsubscribe()
    until(lambda one, _: one == {0, 1, 2, 3})


def test_committed_offsets_are_kept_by_group(broker):
    """A commit is there for the next member of the group, and for no other group."""
    topic = broker.topic()
    broker.produce(topic, [b"x"] * 10)
    one = broker.consumer(group_id=f"{topic}-one")
    one.commit(offsets=[TopicPartition(topic, 0, 7)], asynchronous=False)
    again, other = broker.consumer(group_id=f"{topic}-one"), broker.consumer(group_id=f"{topic}-two")
    assert again.committed([TopicPartition(topic, 0)], timeout=5)[0].offset == 7
    assert other.committed([TopicPartition(topic, 0)], timeout=5)[0].offset < 0


def test_a_topic_is_created_once(broker):
    """Creating a topic that is there is told apart from a failure, and changes nothing."""
    topic = broker.topic(partitions=3)
    with pytest.raises(KafkaException) as caught:
        broker.admin.create_topics([NewTopic(topic, 5, 1)])[topic].result(10)
    assert caught.value.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
    assert len(broker.admin.list_topics(topic, timeout=5).topics[topic].partitions) == 3


def test_settings_given_at_creation_are_told(broker):
    """DescribeConfigs tells at least what the topic was created with, so that a plan can compare it."""
    topic = broker.topic(retention_ms="3600000", cleanup_policy="delete")
    (future,) = broker.admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    told = {entry.name: entry.value for entry in future.result(10).values()}
    assert (told["retention.ms"], told["cleanup.policy"]) == ("3600000", "delete")


def test_an_empty_topic_ends_at_zero_and_no_other_does(broker):
    """Whether a one-partition topic holds anything can be told, also where end offsets are inexact."""
    topic = broker.topic()
    assert topics.is_empty(broker.address, topic)
    for _ in range(3):
        broker.produce(topic, [b"x"])
        assert not topics.is_empty(broker.address, topic)
    assert topics.is_empty(broker.address, "no-such-topic")


def test_the_catalogue_is_created_and_then_in_line(broker):
    """`topics plan` finds all of the catalogue missing, `create` makes it, and a second plan has nothing to do."""
    listed = topics.load()
    assert {topic.name for topic in topics.plan(broker.address, listed).create} == {topic.name for topic in listed}
    created = topics.create(broker.address, listed)
    assert sorted(created) == sorted(topic.name for topic in listed)
    again = topics.plan(broker.address, listed)
    assert (again.create, again.differs, again.unknown) == ((), (), ())
    assert topics.create(broker.address, listed) == []


def test_a_topic_unlike_the_catalogue_is_told_and_left(broker):
    """Another number of partitions and another retention are named; neither plan nor create touches them."""
    name = broker.topic(partitions=2, retention_ms="1000")
    (like,) = [topic for topic in topics.load() if topic.name == topics.RAW]
    wanted = dataclasses.replace(like, name=name)
    assert topics.create(broker.address, [wanted]) == []
    found = topics.plan(broker.address, [wanted])
    assert found.differs[0] == f"{name}: 2 partitions, the catalogue says 4"
    assert f"{name}: retention.ms is 1000, the catalogue says 86400000" in found.differs
    not_told = (f"{name}: cleanup.policy", f"{name}: message.timestamp.type")
    assert found.unknown == (() if broker.facts.tells_default_settings else not_told)
