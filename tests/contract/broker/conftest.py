"""The brokers under contract, and what each is known to fall short of.

A shortfall is a value in `Facts`, and a test measures it: when a new release
changes it, the test fails and the fact, with whoever relies on it, is revised.
"""

import asyncio
import contextlib
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.stack import broker as tansu


@dataclass(frozen=True)
class Facts:
    """What brokers differ in. True is what Apache Kafka does with its defaults."""

    log_append_time: bool
    """message.timestamp.type=LogAppendTime stamps a message on arrival."""
    exact_end_offset: bool
    """ListOffsets LATEST answers the end; otherwise the start of the last batch appended, which is lower."""
    wakes_waiting_fetch: bool
    """A waiting fetch is answered when a message arrives; otherwise at half of its fetch.wait.max.ms."""
    quick_group_join: bool
    """A lone member joins at once; otherwise after half its session time-out."""
    tells_default_settings: bool
    """DescribeConfigs tells every setting; otherwise only those given when the topic was created."""
    enforces_message_size: bool
    """max.message.bytes of a topic is held to."""
    refuses_unknown_settings: bool
    """A topic setting that does not exist fails the creation; otherwise it is kept and told as if it did."""
    tells_offset_out_of_range: bool
    """A fetch beyond the end is an error; otherwise it waits, silently, for ever."""
    hides_aborted_transactions: bool
    """A read_committed reader does not see what an aborted transaction wrote."""
    adds_partitions: bool
    """CreatePartitions works."""
    log_survives_restart: bool
    """What was acknowledged is there after a restart."""


FACTS = {
    "tansu": Facts(
        log_append_time=False,
        exact_end_offset=False,
        wakes_waiting_fetch=False,
        quick_group_join=False,
        tells_default_settings=False,
        enforces_message_size=False,
        refuses_unknown_settings=False,
        tells_offset_out_of_range=False,
        hides_aborted_transactions=False,
        adds_partitions=False,
        log_survives_restart=False,
    )
}


class Tansu:
    """The embedded broker, as the stack runs it."""

    kind = "tansu"
    facts = FACTS["tansu"]

    def __init__(self, folder):
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            tansu.command(self._folder, self._port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, "the broker does not start"
            time.sleep(0.02)

    def stop(self):
        self._process.kill()
        self._process.wait()

    def _answers(self):
        with contextlib.suppress(OSError, EOFError):
            return asyncio.run(tansu.answers(self._port))
        return False


class Client:
    """A broker with short words for what the tests do to it."""

    def __init__(self, broker):
        self.broker, self.facts, self.address = broker, broker.facts, broker.address
        self.admin = AdminClient(self.settings())
        self._open = []

    def settings(self, **more):
        return {"bootstrap.servers": self.address, "log_level": 0} | {
            name.replace("_", "."): value for name, value in more.items()
        }

    def topic(self, partitions=1, **config):
        """Create a topic of its own for one test; return its name."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        new = NewTopic(name, partitions, 1, config={k.replace("_", "."): v for k, v in config.items()})
        self.admin.create_topics([new])[name].result(10)
        return name

    def produce(self, topic, values, settings=None, **message):
        """Send values in order and return the offsets that the broker gave; raise what it refuses."""
        reports = []
        producer = Producer(self.settings(**({"linger_ms": 5} | (settings or {}))))
        for value in values:
            producer.produce(
                topic, value, partition=message.get("partition", 0), on_delivery=lambda e, m: reports.append((e, m)),
                **{k: v for k, v in message.items() if k != "partition"},
            )  # fmt: skip
        assert producer.flush(15) == 0
        refused = [error for error, _ in reports if error is not None]
        if refused:
            raise RuntimeError(refused[0].name())
        return [message.offset() for _, message in reports]

    def consumer(self, statistics=None, **more):
        """Make a consumer that ends with the test; `statistics` is called with what it tells of itself, while polled."""
        settings = {"group_id": uuid.uuid4().hex, "auto_offset_reset": "earliest", "enable_auto_commit": False}
        made = Consumer(self.settings(**(settings | more)) | ({"stats_cb": statistics} if statistics else {}))
        self._open.append(made)
        return made

    def read(self, topic, count, partition=0, offset=0, **more):
        """Read `count` messages from an offset, without a group."""
        consumer = self.consumer(**more)
        consumer.assign([TopicPartition(topic, partition, offset)])
        return self.take(consumer, count)

    def take(self, consumer, count, seconds=15):
        found = []
        deadline = time.monotonic() + seconds
        while len(found) < count and time.monotonic() < deadline:
            for message in consumer.consume(count - len(found), 0.2):
                if message.error() is None:
                    found.append(message)
                else:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
        return found

    def close(self):
        for consumer in self._open:
            consumer.close()


@pytest.fixture(scope="session", params=["tansu"])
def running_broker(request, tmp_path_factory):
    """A broker of each kind under contract."""
    broker = {"tansu": Tansu}[request.param](tmp_path_factory.mktemp(request.param))
    yield broker
    broker.stop()


@pytest.fixture
def broker(running_broker):
    client = Client(running_broker)
    yield client
    client.close()


@pytest.fixture
def own_broker(running_broker, tmp_path):
    """A broker of the same kind that a test may restart."""
    started = type(running_broker)(tmp_path)
    yield Client(started)
    started.stop()
