"""The Schema Registry, through Confluent's own client; nothing is ever registered by the way.

Importing that client costs about 29 MB (httpx, authlib, cryptography), half of
what a producer may use in all. So it is imported by the functions that need it,
and a producer, which needs one number once, asks `resolve_in_child`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any
from urllib.parse import urlsplit

import stamina

from schemas.catalogue import SUBJECTS_OF_TOPICS, Schema, SchemaError, load, subject_of
from schemas.errors import TidegateError

COMPATIBILITY = "BACKWARD_TRANSITIVE"
REQUEST_SECONDS = 5.0
"""How long one request may take."""
DEADLINE_SECONDS = 30.0
"""How long a registry that does not answer is asked again."""

# Codes of the registry's REST interface.
_NO_SUBJECT, _NO_SCHEMA = 40401, 40403
# A start of the client takes about a second on a slow machine.
_CHILD_START_SECONDS = 15.0


class RegistryError(TidegateError):
    """The registry does not answer, or refuses. Says where, why and what to do."""


class Registry:
    """One registry. Made where it is used; safe to share between threads.

    A registry that does not answer is asked again until `deadline_s` has
    passed. Every method raises RegistryError.
    """

    def __init__(self, url: str, *, deadline_s: float = DEADLINE_SECONDS) -> None:
        self._client = _client(url)
        self._address = _without_password(url)
        self._deadline_s = deadline_s
        self._known: dict[int, Schema | None] = {}

    def schema_id(self, subject: str, schema: Schema) -> int:
        """Return the id under which exactly this schema is registered for the subject."""
        try:
            return int(self._ask(self._client.lookup_schema, subject, _as_registered(schema)).schema_id)
        except _RefusedByRegistryError as error:
            if error.answer in (_NO_SUBJECT, _NO_SCHEMA):
                raise RegistryError(
                    f"the registry at {self._address} does not know schema {schema.name} under {subject}: "
                    "run `tidegate topics apply`."
                ) from error
            raise

    def register(self, subject: str, schema: Schema) -> int:
        """Register a schema for a subject, held to BACKWARD_TRANSITIVE; return its id. Again is no change."""
        self._ask(self._client.set_compatibility, subject, COMPATIBILITY)
        return int(self._ask(self._client.register_schema, subject, _as_registered(schema)))

    def writer_schema(self, schema_id: int) -> Schema | None:
        """Return the schema that a message names, or None where the registry knows no such id.

        Either answer is kept for ever: ids are never reused, and a message
        cannot make a worker ask twice. (An id registered after it was asked for
        is read after a restart; messages follow their schema, so none comes first.)
        """
        if schema_id not in self._known:
            if len(self._known) >= _KNOWN_MOST:
                self._known = {known: schema for known, schema in self._known.items() if schema is not None}
            self._known[schema_id] = self._fetch(schema_id)
        return self._known[schema_id]

    def _fetch(self, schema_id: int) -> Schema | None:
        try:
            found = self._ask(self._client.get_schema, schema_id)
            return Schema.parse(f"{schema_id}", found.schema_str or "")
        except _RefusedByRegistryError as error:
            if error.answer == _NO_SCHEMA:
                return None
            raise
        except SchemaError:
            # Registered, but no record that our topics can hold.
            return None

    def _ask(self, call: Any, *arguments: Any) -> Any:  # the client's methods answer all sorts
        """Call the client, again and again while the registry is away."""
        from confluent_kafka.schema_registry.error import SchemaRegistryError
        from httpx import TransportError

        def away(error: Exception) -> bool:
            return isinstance(error, TransportError) or (
                isinstance(error, SchemaRegistryError) and error.http_status_code >= 500
            )

        try:
            for attempt in stamina.retry_context(on=away, attempts=None, timeout=self._deadline_s, wait_max=2.0):
                with attempt:
                    return call(*arguments)
        except SchemaRegistryError as error:
            raise _RefusedByRegistryError(
                f"the registry at {self._address} refuses: {error.error_message}", error.error_code
            ) from error
        except TransportError as error:
            raise RegistryError(
                f"the registry at {self._address} does not answer ({error}). "
                "Is it running? See `tidegate status`, or set TIDEGATE_REGISTRY."
            ) from error
        raise AssertionError("unreachable: every attempt returns or raises")


# A payload may claim any of 2^32 ids: what is remembered of those has an end.
_KNOWN_MOST = 10_000


class _RefusedByRegistryError(RegistryError):
    def __init__(self, message: str, answer: int) -> None:
        super().__init__(message)
        self.answer = answer
        """Code of the registry's REST interface; `code` is the exit code."""


def schema_id(url: str, subject: str, schema: Schema) -> int:
    """Ask once: see `Registry.schema_id`."""
    return Registry(url).schema_id(subject, schema)


def register(url: str, subject: str, schema: Schema) -> int:
    """Register once: see `Registry.register`."""
    return Registry(url).register(subject, schema)


def resolve_in_child(url: str, subject: str, *, deadline_s: float = DEADLINE_SECONDS) -> int:
    """Ask for the id of the catalogue's schema under `subject` in a short-lived process of its own.

    The client's 29 MB leave with that process. Raises RegistryError; nothing is
    kept, so the caller may ask again.
    """
    # -P: a folder called `schemas` where the caller stands is not ours. The
    # address goes through stdin, for a command line is there for all to read.
    command = [sys.executable, "-P", "-m", "schemas.registry"]
    question = json.dumps({"url": url, "subject": subject, "deadline_s": deadline_s})
    try:
        answer = subprocess.run(
            command,
            input=question,
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline_s + _CHILD_START_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"the registry at {_without_password(url)} could not be asked: {error}") from error
    if answer.returncode != 0:
        last = answer.stderr.strip().splitlines()[-1:] or ["the process that asked it ended without a word"]
        raise RegistryError(last[0])
    return int(answer.stdout)


def _client(url: str) -> Any:  # the client has no types
    # Whoever waits says so; the lines of its own that stamina writes could end up between JSON on stdout.
    stamina.instrumentation.set_on_retry_hooks([])
    # authlib warns, on import, of a change that concerns its own developers, and puts a
    # filter of its own before anybody's; so what is said here is kept, and forgotten.
    with warnings.catch_warnings(record=True):
        from confluent_kafka.schema_registry import SchemaRegistryClient
    try:
        return SchemaRegistryClient({"url": url, "timeout": REQUEST_SECONDS, "max.retries": 0})
    except ValueError as error:
        raise RegistryError(f"{_without_password(url)} is no registry's address: it must begin with http.") from error


def _as_registered(schema: Schema) -> Any:  # the client's own type
    from confluent_kafka.schema_registry import Schema as RegistrySchema

    return RegistrySchema(schema.raw, "AVRO")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rsplit("@", 1)[-1]).geturl()


def _main() -> int:
    question = json.load(sys.stdin)
    topics = {subject_of(topic): name for topic, name in SUBJECTS_OF_TOPICS.items()}
    name = topics.get(question["subject"])
    if name is None:
        print(f"no topic of the catalogue has the subject {question['subject']}", file=sys.stderr)
        return 1
    try:
        print(Registry(question["url"], deadline_s=question["deadline_s"]).schema_id(question["subject"], load(name)))
    except RegistryError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
