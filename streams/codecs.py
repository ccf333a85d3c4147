"""Codecs by the schema ids that messages name, and the frames of what we send."""

from __future__ import annotations

from dataclasses import asdict
from io import BytesIO

import fastavro

from schemas.catalogue import SUBJECTS_OF_TOPICS, load, subject_of
from schemas.codec import Codec
from schemas.registry import Registry
from schemas.wire import frame
from streams.data import DeadLetter, UnknownSchemaError


class Codecs:
    """Codecs of one topic, made once a schema id."""

    def __init__(self, registry: Registry, topic: str) -> None:
        self._registry = registry
        self._reader = load(SUBJECTS_OF_TOPICS[topic])
        self._codecs: dict[int, Codec] = {}

    def __call__(self, schema_id: int) -> Codec:
        """Return the codec of a schema id.

        Raises UnknownSchemaError when the registry does not have it, SchemaError
        when our reader cannot read it, RegistryError when the registry does not
        answer. Blocks while it asks.
        """
        codec = self._codecs.get(schema_id)
        if codec is None:
            writer = self._registry.writer_schema(schema_id)
            if writer is None:
                raise UnknownSchemaError
            codec = self._codecs[schema_id] = Codec(writer, self._reader)
        return codec


class Framer:
    """Puts what we send into the Confluent frame, under the id of the schema we were built with."""

    def __init__(self, registry: Registry, topic: str) -> None:
        """Blocks while it asks the registry. Raises RegistryError."""
        self._schema = load(SUBJECTS_OF_TOPICS[topic])
        self._id = registry.schema_id(subject_of(topic), self._schema)

    def body(self, body: bytes) -> bytes:
        """Frame a record that is encoded already."""
        return frame(self._id, body)

    def dead_letter(self, letter: DeadLetter) -> bytes:
        """Encode and frame a dead letter."""
        out = BytesIO()
        fastavro.schemaless_writer(out, self._schema.parsed, asdict(letter))
        return frame(self._id, out.getvalue())
