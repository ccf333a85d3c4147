"""What must hold of the topic catalogue. `tidegate topics check` and a test run every rule."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from infra.topics import DEAD_LETTER, FOREVER, HOUR_MS, MINIMIZED, RAW, Topic

ROLES = (
    *("producer", "minimiser", "windower", "authority", "sampler"),  # programs
    *("subject", "on-call", "approver", "platform"),  # people
)
"""Who may be named as a reader or writer."""

HISTORIES = ("control.policy", "control.consent", "control.switch")
"""What a gate goes by depends on everything that was ever said there."""
RAW_HOURS_AT_MOST = 48


def problems(topics: Sequence[Topic], schemas: Collection[str]) -> list[str]:
    """Say, a sentence each, what the catalogue breaks; `schemas` are the names that the schema catalogue has."""
    names = {topic.name for topic in topics}
    found = [f"{topic.name}: {problem}" for topic in topics for problem in _of_one(topic, names, schemas)]
    twice = sorted({t.name for t in topics if sum(t.name == other.name for other in topics) > 1})
    found += [f"{name}: described in two files" for name in twice]
    return [*found, *_of_all({topic.name: topic for topic in topics})]


def _of_one(topic: Topic, names: Collection[str], schemas: Collection[str]) -> Iterator[str]:
    for field in ("owner", "purpose", "key"):
        if not str(getattr(topic, field)).strip():
            yield f"has no {field}"
    if topic.partitions < 1:
        yield "needs at least one partition"
    if topic.schema not in schemas:
        yield f"schema `{topic.schema}` is not in the catalogue"
    if topic.dead_letter != "none" and topic.dead_letter not in names:
        yield f"dead letter `{topic.dead_letter}` is no topic of the catalogue"
    if topic.cleanup not in ("delete", "compact"):
        yield f"cleanup must be delete or compact, not `{topic.cleanup}`"
    if topic.timestamp not in ("LogAppendTime", "CreateTime"):
        yield f"timestamp must be LogAppendTime or CreateTime, not `{topic.timestamp}`"
    yield from _retention(topic)
    for role in ("readers", "writers"):
        listed = getattr(topic, role)
        if not listed:
            yield f"names no {role}"
        yield from (f"{role}: `{name}` is no role ({', '.join(ROLES)})" for name in listed if name not in ROLES)
    yield from _control(topic) if topic.control else _interactions(topic)


def _retention(topic: Topic) -> Iterator[str]:
    if isinstance(topic.retention_hours, str):
        if topic.retention_hours != FOREVER:
            yield f"retention must be hours or `{FOREVER}`, not `{topic.retention_hours}`"
        elif topic.cleanup != "compact" and topic.name not in HISTORIES:
            yield "retention is unbounded, which only a compacted topic or a history of the control plane may be"
    elif topic.retention_hours < 1:
        yield "retention must be at least an hour"


def _control(topic: Topic) -> Iterator[str]:
    if topic.partitions != 1:
        yield "a control topic has one partition, so that every gate applies its records in one order"
    if topic.encoding != "single-object":
        yield "a control topic is single-object encoded, so that stopping needs no registry"
    if topic.name in HISTORIES:
        if topic.cleanup != "delete" or topic.retention_ms != -1:
            yield "is kept whole: compaction would let a record that is not valid take the place of one that is"
        if topic.timestamp != "LogAppendTime":
            yield "needs LogAppendTime, or what allows more could be dated by who wrote it"


def _interactions(topic: Topic) -> Iterator[str]:
    if topic.encoding != "registry":
        yield "a topic of events uses the registry's wire format"
    if topic.dead_letter == "none" and topic.name != DEAD_LETTER:
        yield "has no dead letter topic"


def _of_all(topics: Mapping[str, Topic]) -> Iterator[str]:
    missing = [name for name in (RAW, MINIMIZED, DEAD_LETTER) if name not in topics]
    if missing:
        yield from (f"{name}: is not in the catalogue" for name in missing)
        return
    raw = topics[RAW]
    if raw.readers != ("minimiser",):
        yield f"{RAW}: only the minimiser may read it, not {', '.join(raw.readers)}"
    if raw.retention_ms < 0 or raw.retention_ms > RAW_HOURS_AT_MOST * HOUR_MS:
        yield f"{RAW}: raw events are kept for at most {RAW_HOURS_AT_MOST} hours"
    if raw.timestamp != "LogAppendTime":
        yield f"{RAW}: needs LogAppendTime, or a device could date its events"
    for name in (MINIMIZED, DEAD_LETTER):
        if topics[name].partitions != raw.partitions:
            yield f"{name}: needs as many partitions as {RAW}, whose partition numbers it keeps"
