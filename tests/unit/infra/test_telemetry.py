"""Logs leak nothing, health means progress, metrics name nobody."""

import json
import logging
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from infra import metrics, telemetry
from infra.errors import TidegateError
from infra.progress import Progress
from infra.redaction import ALLOWED, guard

SENSITIVE = ("subject", "session", "label", "labels", "x", "y", "payload", "value", "key", "pseudonym", "application")


def run(code: str) -> list[dict]:
    """Run a program that logs, as a process of its own: logging is configured once a process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize("name", SENSITIVE)
def test_sensitive_names_are_not_allowed(name):
    """A field that could hold personal data is withheld, and its name alone is shown."""
    assert guard({"event": "e", name: "alice"}) == {"event": "e", "withheld": [name]}


@given(st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.binary() | st.lists(st.text())))
def test_only_listed_fields_pass(fields):
    """Whatever a caller hands over, only listed names come out, with plain values."""
    out = guard(fields)
    assert set(out) - {"withheld"} <= ALLOWED & set(fields)
    json.dumps(out)


@pytest.mark.parametrize("value", [{"alice": 1}, b"alice", object(), [["alice"]], ["a"] * 33])
def test_opaque_values_are_withheld(value):
    """An allowed name does not open the door to mappings, bytes and objects."""
    assert guard({"reason": value}) == {"withheld": ["reason"]}


def test_structlog_and_logging_make_the_same_guarded_lines():
    """Both ways of logging end as JSON lines on stderr, guarded."""
    lines = run(
        "import logging\nfrom infra import telemetry\ntelemetry.configure('test')\n"
        "telemetry.logger('a').info('sent', count=3, subject='alice')\n"
        "logging.getLogger('b').info('sent', extra={'count': 3, 'subject': 'alice'})\n"
    )
    for line, name in zip(lines, "ab", strict=True):
        assert line.pop("timestamp").endswith("+00:00")
        assert line == {
            "component": "test", "event": "sent", "level": "info", "logger": name, "count": 3, "withheld": ["subject"],
        }  # fmt: skip


def test_an_error_is_told_without_its_text():
    """An exception's message, which may quote a value, stays out; its type and place are kept."""
    (structured, plain) = run(
        "import logging\nfrom infra import telemetry\ntelemetry.configure('test')\n"
        "try:\n    int('alice')\n"
        "except ValueError:\n"
        "    telemetry.logger('a').exception('failed')\n"
        "    logging.getLogger('b').exception('failed %s', 'alice')\n"
    )
    for line in (structured, plain):
        assert line["error_type"] == "ValueError"
        assert line["at"]
        assert "alice" not in json.dumps(line)


def test_a_logger_is_guarded_before_configure():
    """A library module that logs before the process configured anything leaks nothing to stdout."""
    (line,) = run("from infra import telemetry\ntelemetry.logger('a').warning('early', subject='alice')\n")
    assert line["withheld"] == ["subject"]


def test_configure_plain_does_not_load_structlog():
    """A producer that logs through `configure_plain` keeps structlog out of its memory."""
    lines = run(
        "import sys, logging\nfrom infra import telemetry\ntelemetry.configure_plain('producer')\n"
        "logging.getLogger('p').info('loaded', extra={'state': str('structlog' in sys.modules)})\n"
    )
    assert lines[0]["state"] == "False"


def fetch(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server():
    server = telemetry.serve(0, registry=CollectorRegistry())
    yield server
    server.close()


def test_health_is_progress(server, clock):
    """A process is healthy only while every watched loop beats within its limit; the stalled one is named."""
    fast, slow = Progress("take", 1.0, clock), Progress("ticks", 10.0, clock)
    assert fetch(server.port, "/healthz")[0] == 503
    server.watch(fast, slow)
    fast.beat()
    assert fetch(server.port, "/healthz")[0] == 503
    slow.beat()
    assert fetch(server.port, "/healthz")[0] == 200
    clock.now += 1.5
    status, body = fetch(server.port, "/healthz")
    assert status == 503
    assert json.loads(body)["stalled"] == ["take: no progress for 1.5 s (limit 1 s)"]
    fast.beat()
    assert fetch(server.port, "/healthz")[0] == 200


def test_metrics_are_served_and_unknown_paths_are_not(server):
    """`/metrics` answers in Prometheus's text format; anything else is a 404."""
    metrics.ProducerMetrics(server._registry).captured.inc(7)
    status, body = fetch(server.port, "/metrics")
    assert status == 200
    assert "tidegate_producer_events_captured_total 7.0" in body
    assert fetch(server.port, "/secrets")[0] == 404


def test_a_taken_port_is_named(server):
    """A metrics port in use gives an error that names it and says what to do."""
    with pytest.raises(TidegateError, match=str(server.port)):
        telemetry.serve(server.port)


ROLES = [role for name, role in vars(metrics).items() if name.endswith("Metrics")]


def test_every_role_can_live_in_one_process():
    """No two roles claim the same metric name."""
    registry = CollectorRegistry()
    assert len([role(registry) for role in ROLES]) == len(ROLES) > 4


@pytest.mark.parametrize("role", ROLES)
def test_metric_names_and_labels_follow_the_rules(role):
    """Names have the prefix, counters end in _total, units are base units, labels come from a small set."""
    for metric in vars(role(CollectorRegistry())).values():
        name, labels = metric.describe()[0].name, metric._labelnames
        assert name.startswith("tidegate_")
        assert not name.endswith(("_ms", "_milliseconds", "_kb", "_mb"))
        assert set(labels) <= {"reason", "outcome", "partition", "part", "topic"}
        assert metric._documentation.endswith(".")


def test_logging_level_names_are_checked():
    """An unknown level is an error at once, not silence."""
    with pytest.raises(ValueError, match="LOUD"):
        telemetry.configure_plain("test", "loud")
    assert logging.getLogger().handlers
