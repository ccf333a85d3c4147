"""The embedded registry, driven by Confluent's own client and by ours, in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from confluent_kafka.schema_registry import Schema as RegistrySchema
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.catalogue import Schema, load
from schemas.registry import Registry, RegistryError, register, resolve_in_child, schema_id

SUBJECT = "interactions.raw-value"


class Running:
    """One registry process over a folder."""

    def __init__(self, home):
        self.home = home
        self.start()

    def start(self):
        command = [sys.executable, "-m", "infra.stack.registry", "--home", str(self.home), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("registry on "), line
        self.url = line.split()[-1]

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        self.process.stdout.close()

    def client(self):
        return SchemaRegistryClient({"url": self.url, "max.retries": 0, "timeout": 10})


@pytest.fixture
def running(tmp_path):
    registry = Running(tmp_path)
    yield registry
    registry.kill()


def avro(**types):
    """A record with these fields; a type given as a pair has a default."""
    fields = [
        {"name": name, "type": t[0], "default": t[1]} if isinstance(t, tuple) else {"name": name, "type": t}
        for name, t in types.items()
    ]
    return RegistrySchema(json.dumps({"type": "record", "name": "R", "fields": fields}), "AVRO")


def code_of(call, *arguments, **named):
    with pytest.raises(SchemaRegistryError) as error:
        call(*arguments, **named)
    return error.value.http_status_code, error.value.error_code


def test_what_is_registered_is_found_again(running):
    """Register, look up, fetch by id and by version; the text comes back as it went in."""
    client = running.client()
    first = client.register_schema("s", avro(a="int"))
    assert client.register_schema("s", avro(a="int")) == first
    second = client.register_schema("s", avro(a="int", b=("int", 0)), normalize_schemas=True)
    assert second != first
    fresh = running.client()
    assert fresh.get_schema(first).schema_str == avro(a="int").schema_str
    assert fresh.get_schema(second, subject_name="s").schema_str == avro(a="int", b=("int", 0)).schema_str
    assert fresh.lookup_schema("s", avro(a="int")).version == 1
    assert (fresh.get_latest_version("s").schema_id, fresh.get_version("s", 1).schema_id) == (second, first)
    assert fresh.get_subjects() == ["s"]
    assert fresh.get_versions("s") == [1, 2]
    assert fresh.get_schema_types() == ["AVRO"]
    assert fresh.get_subjects_by_schema_id(first) == ["s"]
    assert [(v.subject, v.version) for v in fresh.get_schema_versions(second)] == [("s", 2)]


def test_one_schema_has_one_id_under_every_subject(running):
    """An id names a schema, whatever its white space, not a place where it is used."""
    client = running.client()
    first = client.register_schema("s", avro(a="int"))
    spaced = RegistrySchema(json.dumps(json.loads(avro(a="int").schema_str), indent=3), "AVRO")
    assert client.register_schema("t", spaced) == first


def test_an_incompatible_schema_is_refused_by_the_name_of_the_field(running):
    """BACKWARD_TRANSITIVE holds unless told otherwise, against all versions, and the message names the field."""
    client = running.client()
    client.register_schema("s", avro(a="int", wheel="long"))
    client.register_schema("s", avro(a="int"))
    with pytest.raises(SchemaRegistryError) as refused:
        client.register_schema("s", avro(a="int", wheel=("string", "")))
    assert (refused.value.http_status_code, refused.value.error_code) == (409, 409)
    assert "`wheel`" in refused.value.error_message
    assert "version 1" in refused.value.error_message
    assert client.get_versions("s") == [1, 2]
    assert client.test_compatibility("s", avro(a="int", wheel=("string", ""))) is True  # against the latest only
    assert client.test_compatibility("s", avro(a="int", wheel=("string", "")), version=1) is False
    assert client.test_compatibility_all_versions("s", avro(a="int", wheel=("string", ""))) is False


def test_levels_are_kept_by_subject(running):
    """A level can be set for all and for one subject; NONE lets anything through, FORWARD turns the question round."""
    client = running.client()
    assert client.get_compatibility() == "BACKWARD_TRANSITIVE"
    assert code_of(client.get_compatibility, "s") == (404, 40408)
    client.set_compatibility("s", "NONE")
    assert client.get_compatibility("s") == "NONE"
    client.register_schema("s", avro(a="int"))
    client.register_schema("s", avro(b="int"))
    client.set_compatibility("f", "forward")
    client.register_schema("f", avro(a="int"))
    client.register_schema("f", avro(a="int", b="int"))
    assert code_of(client.register_schema, "f", avro(b="int")) == (409, 409)
    assert code_of(client.set_compatibility, "s", "SOMETIMES") == (422, 42203)
    client.delete_config("s")
    assert code_of(client.get_compatibility, "s") == (404, 40408)


def test_errors_have_the_codes_of_the_real_one(running):
    """A client tells these apart by number: no subject, no version, no schema, no Avro."""
    client = running.client()
    assert code_of(client.get_schema, 77) == (404, 40403)
    assert code_of(client.get_versions, "s") == (404, 40401)
    assert code_of(client.lookup_schema, "s", avro(a="int")) == (404, 40401)
    client.register_schema("s", avro(a="int"))
    assert code_of(client.lookup_schema, "s", avro(b="int")) == (404, 40403)
    assert code_of(client.get_version, "s", 9) == (404, 40402)
    assert code_of(client.get_version, "s", "newest") == (422, 42202)
    assert code_of(client.register_schema, "s", RegistrySchema('{"type": "record"}', "AVRO")) == (422, 42201)
    assert code_of(client.register_schema, "s", RegistrySchema("{}", "JSON")) == (422, 42201)


def test_deleted_twice_is_gone_but_its_messages_stay_readable(running):
    """A subject is hidden first, then removed; ids outlive it and are never given out again."""
    client = running.client()
    first = client.register_schema("s", avro(a="int"))
    assert code_of(client.delete_subject, "s", permanent=True) == (404, 40405)
    assert client.delete_subject("s") == [1]
    assert client.get_subjects() == []
    assert client.get_subjects(deleted=True) == ["s"]
    assert client.delete_subject("s", permanent=True) == [1]
    assert client.get_subjects(deleted=True) == []
    fresh = running.client()
    assert fresh.get_schema(first).schema_str == avro(a="int").schema_str
    assert fresh.register_schema("s", avro(b="int")) > first
    fresh.register_schema("s", avro(b="long"))
    assert fresh.delete_version("s", 1) == 1
    assert fresh.get_versions("s") == [2]


def test_a_killed_registry_comes_back_with_its_ids(running):
    """kill -9 between registrations loses nothing that was answered, and no id changes its meaning."""
    given = {}
    for round_ in range(3):
        name = f"field{round_}"
        given[running.client().register_schema("s", avro(**dict.fromkeys([*given.values(), name], ("int", 0))))] = name
        running.kill()
        running.start()
        client = running.client()
        for schema_id_, field in given.items():
            fields = json.loads(client.get_schema(schema_id_).schema_str)["fields"]
            assert fields[-1]["name"] == field
    assert running.client().get_versions("s") == [1, 2, 3]


def test_bad_requests_end_in_an_error_body(running):
    """What is no request gets a status and a JSON body, and the registry goes on."""

    def status(path, data=None, method="GET"):
        request = urllib.request.Request(running.url + path, data=data, method=method)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=10)
        assert error.value.headers["Content-Type"] == "application/vnd.schemaregistry.v1+json"
        return error.value.code, json.loads(error.value.read())["error_code"]

    assert status("/nowhere") == (404, 404)
    assert status("/subjects/s/versions", b"{", "POST") == (400, 400)
    assert status("/subjects/s/versions", b"[1]", "POST") == (400, 400)
    assert status("/subjects/s/versions", b"[" * 200_000, "POST") == (400, 400)
    assert status("/subjects/s/versions", b"{}", "POST") == (422, 42201)
    assert status("/subjects/s/versions", b'"' + b"x" * (1 << 20) + b'"', "POST") == (413, 413)
    assert json.load(urllib.request.urlopen(running.url + "/healthz", timeout=10)) == {"status": "ok", "schemas": 0}


def test_a_state_file_that_is_none_and_a_taken_port_are_named(tmp_path):
    """Starting says which file or port it is about, without a traceback."""

    def start(port):
        command = [sys.executable, "-m", "infra.stack.registry", "--home", str(tmp_path), "--port", str(port)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = start(port)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert str(port) in refused.stderr
    (tmp_path / "registry" / "state.json").write_text("[]")
    refused = start(0)
    assert refused.returncode == 1
    assert "state.json" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_our_client_registers_and_looks_up(running):
    """Registering is a deed of its own; a look-up registers nothing and says what to do."""
    batch = load("interaction_batch")
    with pytest.raises(RegistryError, match="tidegate topics apply"):
        schema_id(running.url, SUBJECT, batch)
    assert running.client().get_subjects() == []
    given = register(running.url, SUBJECT, batch)
    assert schema_id(running.url, SUBJECT, batch) == given
    assert running.client().get_compatibility(SUBJECT) == "BACKWARD_TRANSITIVE"
    assert resolve_in_child(running.url, SUBJECT) == given


def test_nothing_is_said_to_those_who_did_not_ask(running):
    """Loading Confluent's client warns of httpx in authlib; whoever runs a command of ours does not see that."""
    program = (
        "import sys; from schemas.catalogue import load; from schemas.registry import register; "
        "register(sys.argv[1], sys.argv[2], load('interaction_batch'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, running.url, SUBJECT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_our_client_names_the_field_that_is_incompatible(running):
    """The registry's objection reaches whoever applies the schema."""
    register(running.url, SUBJECT, load("interaction_batch"))
    changed = json.loads(load("interaction_batch").raw)
    changed["fields"].insert(0, {"name": "screen_name", "type": "string"})
    with pytest.raises(RegistryError, match="`screen_name` is new and has no default"):
        register(running.url, SUBJECT, Schema.parse("interaction_batch", json.dumps(changed)))


def test_a_message_may_name_any_schema(running):
    """A worker reads the schema that a message names, learns of those that are none, and asks for each once."""
    batch = load("interaction_batch")
    given = register(running.url, SUBJECT, batch)
    other = running.client().register_schema("strings", RegistrySchema('"string"', "AVRO"))
    registry = Registry(running.url)
    assert registry.writer_schema(given).fingerprint == batch.fingerprint
    assert registry.writer_schema(given).columns == batch.columns
    assert registry.writer_schema(other) is None
    assert registry.writer_schema(4_000_000_000) is None
    running.kill()
    assert registry.writer_schema(given).fingerprint == batch.fingerprint
    assert registry.writer_schema(4_000_000_000) is None
    running.start()


def test_a_registry_that_is_not_there_is_named_without_its_password():
    """The error has the address and no secret, comes within the deadline, and from the child as well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://me:secret@127.0.0.1:{port}"
    with pytest.raises(RegistryError, match=f"http://127.0.0.1:{port} does not answer") as error:
        Registry(url, deadline_s=0.5).schema_id(SUBJECT, load("interaction_batch"))
    assert "secret" not in str(error.value)
    with pytest.raises(RegistryError, match=f"http://127.0.0.1:{port} does not answer") as error:
        resolve_in_child(url, SUBJECT, deadline_s=0.5)
    assert "secret" not in str(error.value)
    with pytest.raises(RegistryError, match="no topic of the catalogue"):
        resolve_in_child(url, "nonsense")
    with pytest.raises(RegistryError, match="no registry's address"):
        Registry("nonsense")
