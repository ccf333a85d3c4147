"""The topic catalogue: `topics/*.yaml` as data, its rules, and the live broker beside it.

A topic that is not in the catalogue does not belong to Tidegate. Everything a
reader wants to know of one stands in its file; what must hold of it is a rule
in `topic_rules`, not prose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from infra.errors import TidegateError

FOLDER = Path(__file__).parent / "topics"
RAW, MINIMIZED, DEAD_LETTER = "interactions.raw", "interactions.minimized", "interactions.deadletter"
FOREVER = "forever"
HOUR_MS = 3_600_000
# Two missed rounds to a broker next door, and still an answer before somebody gives up looking at the screen.
ANSWER_SECONDS = 4.0
EMBEDDED_CLUSTER = "tansu_cluster"


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic, as its file says."""

    name: str
    owner: str
    purpose: str
    partitions: int
    retention_hours: int | str
    """Hours, or `forever`, which a compacted topic may have, and a history of the control plane has."""
    cleanup: str
    """`delete` or `compact`."""
    timestamp: str
    """`LogAppendTime` or `CreateTime`."""
    schema: str
    """Name in the schema catalogue."""
    encoding: str
    """`registry` (Confluent wire format) or `single-object`."""
    key: str
    dead_letter: str
    """Topic that takes what cannot be read, or `none`."""
    writers: tuple[str, ...]
    readers: tuple[str, ...]

    @property
    def control(self) -> bool:
        """Whether it steers the gates rather than carrying events."""
        return self.name.startswith("control.")

    @property
    def retention_ms(self) -> int:
        """How long the broker keeps a record; -1 for ever, as Kafka says it."""
        return -1 if isinstance(self.retention_hours, str) else self.retention_hours * HOUR_MS

    def settings(self) -> dict[str, str]:
        """The broker's settings for this topic, by Kafka's names."""
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "message.timestamp.type": self.timestamp,
        }


def load(folder: Path = FOLDER) -> tuple[Topic, ...]:
    """Read every topic of the catalogue, by name.

    Raises TidegateError, naming file and field, for what is missing, unknown or of the wrong type.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise TidegateError(f"no topic files in {folder}: the installation is incomplete.")
    return tuple(_read(path) for path in files)


def _read(path: Path) -> Topic:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TidegateError(f"{path} cannot be read: {error}") from error
    if not isinstance(loaded, dict):
        raise TidegateError(f"{path} is not a mapping of a topic's fields.")
    expected = {f.name: f.type for f in fields(Topic)}
    unknown, missing = sorted(set(loaded) - set(expected)), sorted(set(expected) - set(loaded))
    if unknown or missing:
        raise TidegateError(
            f"{path}: " + "; ".join(filter(None, [_listed("unknown field", unknown), _listed("no field", missing)]))
        )
    for name, type_ in expected.items():
        loaded[name] = _value(path, name, str(type_), loaded[name])
    return Topic(**loaded)


def _listed(what: str, names: Sequence[object]) -> str:
    return f"{what} " + ", ".join(f"`{name}`" for name in names) if names else ""


def _value(path: Path, name: str, type_: str, value: object) -> object:
    if type_.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise TidegateError(f"{path}: `{name}` must be a list of roles.")
    kinds = tuple({"int": int, "str": str}[kind] for kind in type_.split(" | "))
    if isinstance(value, kinds) and not isinstance(value, bool):
        return value
    raise TidegateError(f"{path}: `{name}` must be {type_.replace('|', 'or')}, not {value!r}.")


# The live broker


@dataclass(frozen=True, slots=True)
class Plan:
    """What the catalogue and a live broker disagree about."""

    broker: str
    create: tuple[Topic, ...]
    """Topics that the broker does not have."""
    differs: tuple[str, ...]
    """A sentence for every setting that is not as the catalogue says."""
    unknown: tuple[str, ...]
    """Settings that the broker does not tell, so that they could not be compared."""
    notes: tuple[str, ...]
    """What the broker is known not to do, whatever its settings say."""

    @property
    def in_line(self) -> bool:
        """Whether nothing is to be done."""
        return not self.create and not self.differs


EMBEDDED_NOTE = (
    "this is the embedded broker: it keeps topic settings but acts on none "
    "(no retention, no compaction, no LogAppendTime), and everything is gone when it stops"
)


def plan(broker: str, topics: Sequence[Topic]) -> Plan:
    """Compare the catalogue with a live broker. Raises TidegateError when it does not answer."""
    with _admin(broker) as admin:
        cluster = admin.list_topics(timeout=ANSWER_SECONDS)
        present = [topic for topic in topics if topic.name in cluster.topics]
        settings = _settings(admin, [topic.name for topic in present])
    differs, unknown = [], []
    for topic in present:
        partitions = len(cluster.topics[topic.name].partitions)
        if partitions != topic.partitions:
            differs.append(f"{topic.name}: {partitions} partitions, the catalogue says {topic.partitions}")
        for name, wanted in topic.settings().items():
            found = settings[topic.name].get(name)
            if found is None:
                unknown.append(f"{topic.name}: {name}")
            elif found != wanted:
                differs.append(f"{topic.name}: {name} is {found}, the catalogue says {wanted}")
    return Plan(
        broker=broker,
        create=tuple(topic for topic in topics if topic.name not in cluster.topics),
        differs=tuple(differs),
        unknown=tuple(unknown),
        notes=(EMBEDDED_NOTE,) if cluster.cluster_id == EMBEDDED_CLUSTER else (),
    )


def create(broker: str, topics: Sequence[Topic]) -> list[str]:
    """Create these topics and return the names of those that were not there yet.

    Nothing is ever deleted or changed: adding partitions would move sessions to
    other partitions in mid-stream, and shrinking loses data.
    Raises TidegateError when the broker does not answer or refuses one.
    """
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # re-exported without __all__

    wanted = [
        # -1: as many replicas as the cluster's default says.
        NewTopic(topic.name, num_partitions=topic.partitions, replication_factor=-1, config=topic.settings())
        for topic in topics
    ]
    created = []
    with _admin(broker) as admin:
        for name, future in admin.create_topics(wanted, request_timeout=ANSWER_SECONDS).items() if wanted else ():
            try:
                future.result(ANSWER_SECONDS)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise TidegateError(f"{broker} refuses to create {name}: {error.args[0].str()}") from error
            else:
                created.append(name)
    return created


def is_empty(broker: str, topic: str) -> bool:
    """Say whether a topic with one partition holds no record, or does not exist.

    Raises TidegateError when the broker does not answer.
    """
    from confluent_kafka import Consumer, TopicPartition

    with _admin(broker) as admin:
        if topic not in admin.list_topics(timeout=ANSWER_SECONDS).topics:
            return True
    consumer = Consumer(_client(broker) | {"group.id": "unused"})
    try:
        with _translated(broker):
            # The embedded broker answers too low for the end, yet never 0 where there is a record.
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=ANSWER_SECONDS)
    finally:
        consumer.close()
    return bool(end <= 0)


def register_schemas(registry: str, topics: Sequence[Topic]) -> dict[str, int]:
    """Register every topic's schema under `<topic>-value`; return the ids by subject.

    Raises TidegateError when the registry does not answer, or finds a schema incompatible.
    """
    from schemas import catalogue
    from schemas.registry import Registry

    client = Registry(registry, deadline_s=ANSWER_SECONDS / 2)
    wanted = {catalogue.subject_of(topic.name): catalogue.load(topic.schema) for topic in topics}
    return {subject: client.register(subject, schema) for subject, schema in wanted.items()}


def _settings(admin: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported without __all__
        ConfigResource,
        ResourceType,
    )

    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    answers = admin.describe_configs(resources, request_timeout=ANSWER_SECONDS)
    return {
        resource.name: {entry.name: entry.value for entry in future.result(ANSWER_SECONDS).values()}
        for resource, future in answers.items()
    }


def _client(broker: str) -> dict[str, Any]:
    # librdkafka writes its own lines to stderr; what matters comes back as an error.
    return {"bootstrap.servers": broker, "log_level": 0, "socket.timeout.ms": int(ANSWER_SECONDS * 1000)}


@contextmanager
def _admin(broker: str) -> Iterator[Any]:
    from confluent_kafka.admin import AdminClient

    with _translated(broker):
        yield AdminClient(_client(broker))


@contextmanager
def _translated(broker: str) -> Iterator[None]:
    from confluent_kafka import KafkaException

    try:
        yield
    except KafkaException as error:
        raise TidegateError(
            f"the Kafka broker at {broker} does not answer ({error.args[0].str()}). "
            "See `tidegate status`, or correct TIDEGATE_KAFKA."
        ) from error
