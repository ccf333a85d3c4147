"""Where brokers differ: each shortfall that `Facts` names is measured here, both ways."""

import json
import time

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import ConfigResource, NewPartitions, ResourceType

from tests.support import wait_until

DEVICE_TIME = 1_500_000_000_000


def test_append_time(broker):
    """Whether LogAppendTime replaces the device's time. Where not, the minimiser's clock stands in."""
    topic = broker.topic(message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000)
    broker.produce(topic, [b"x"], timestamp=DEVICE_TIME)
    kind, stamp = broker.read(topic, 1)[0].timestamp()
    if broker.facts.log_append_time:
        assert kind == 2
        assert stamp >= before - 1000
    else:
        assert (kind, stamp) == (1, DEVICE_TIME)


def test_end_offset(broker):
    """Whether ListOffsets tells the end of a partition. Where not, nothing may be decided by it."""
    topic = broker.topic()
    broker.produce(topic, [b"x"])
    broker.produce(topic, [b"x"] * 10, {"linger_ms": 200})
    _, end = broker.consumer().get_watermark_offsets(TopicPartition(topic, 0), timeout=5)
    assert end == 11 if broker.facts.exact_end_offset else 0 < end < 11


def test_waiting_fetch(broker):
    """Whether a waiting fetch is answered at once. Where not, readers that must be prompt wait briefly and ask often."""
    told = []
    topic = broker.topic()
    consumer = broker.consumer(told.append, fetch_wait_max_ms=4000, statistics_interval_ms=50)
    consumer.assign([TopicPartition(topic, 0, 0)])
    broker.produce(topic, [b"first"])
    assert len(broker.take(consumer, 1)) == 1
    told.clear()
    wait_until(lambda: consumer.poll(0) is None and told and _fetches(told[-1]), 10, "the next fetch waits")
    broker.produce(topic, [b"second"])
    begun = time.monotonic()
    assert len(broker.take(consumer, 1)) == 1
    assert (time.monotonic() - begun < 0.8) == broker.facts.wakes_waiting_fetch


def _fetches(statistics):
    """Whether a broker owes an answer: with heartbeats 3 s apart that is a fetch."""
    return any(told["waitresp_cnt"] for told in json.loads(statistics)["brokers"].values())


def test_group_join(broker):
    """Whether a lone member joins at once. Where not, it waits half its session time-out: keep that short."""
    topic = broker.topic()
    broker.produce(topic, [b"x"])
    consumer = broker.consumer(session_timeout_ms=6000, heartbeat_interval_ms=500)
    begun = time.monotonic()
    consumer.subscribe([topic])
    assert len(broker.take(consumer, 1)) == 1
    took = time.monotonic() - begun
    assert took < 2 if broker.facts.quick_group_join else 2.5 < took < 10


def test_default_settings(broker):
    """Whether DescribeConfigs tells settings that nobody gave. Where not, a plan says what it could not compare."""
    topic = broker.topic()
    (future,) = broker.admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
    assert ("retention.ms" in future.result(10)) == broker.facts.tells_default_settings


def test_message_size(broker):
    """Whether a topic's max.message.bytes is held to. Where not, only the producer's own limit is."""
    topic = broker.topic(max_message_bytes="1000")
    if broker.facts.enforces_message_size:
        with pytest.raises(RuntimeError, match="MSG_SIZE_TOO_LARGE"):
            broker.produce(topic, [b"x" * 5000])
    else:
        assert broker.produce(topic, [b"x" * 5000]) == [0]


def test_unknown_settings(broker):
    """Whether a setting that does not exist is refused. Where not, a typo is found by the catalogue's own reader."""
    if broker.facts.refuses_unknown_settings:
        with pytest.raises(KafkaException):
            broker.topic(no_such_setting="1")
    else:
        broker.topic(no_such_setting="1")


def test_offset_out_of_range(broker):
    """Whether a fetch beyond the end fails. Where not, a reader that was sent there waits for ever, so nobody may be."""
    topic = broker.topic()
    broker.produce(topic, [b"x"])
    consumer = broker.consumer(auto_offset_reset="error")
    consumer.assign([TopicPartition(topic, 0, 1000)])
    message = consumer.poll(3)
    assert (message is not None and message.error() is not None) == broker.facts.tells_offset_out_of_range


def test_aborted_transactions(broker):
    """Whether read_committed hides an aborted write. Where not, transactions protect nothing; the ledger does."""
    topic = broker.topic()
    producer = Producer(broker.settings(transactional_id=topic))
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(topic, b"aborted", partition=0)
    producer.flush(10)
    producer.abort_transaction(10)
    broker.produce(topic, [b"kept"])
    consumer = broker.consumer(isolation_level="read_committed")
    consumer.assign([TopicPartition(topic, 0, 0)])
    first = broker.take(consumer, 1)[0].value()
    assert (first == b"kept") == broker.facts.hides_aborted_transactions


def test_adding_partitions(broker):
    """Whether partitions can be added at all."""
    topic = broker.topic()
    (future,) = broker.admin.create_partitions([NewPartitions(topic, 2)]).values()
    if broker.facts.adds_partitions:
        future.result(10)
    else:
        with pytest.raises(KafkaException, match="CreatePartitions"):
            future.result(10)


def test_restart(own_broker):
    """Whether the log outlives the broker. Where not, each start of it is a new log with a name of its own."""
    topic = own_broker.topic()
    own_broker.produce(topic, [b"x"])
    own_broker.broker.stop()
    own_broker.broker.start()
    after = type(own_broker)(own_broker.broker)
    assert (topic in after.admin.list_topics(timeout=10).topics) == own_broker.facts.log_survives_restart
