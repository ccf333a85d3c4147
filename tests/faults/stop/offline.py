"""The load of `tests.load` from a machine whose data goes by the address in LINE, while its gate hears the broker."""

from __future__ import annotations

import os
from dataclasses import replace

from infra.addresses import Addresses
from infra.control.keeper import GateKeeper
from producers.producer import Producer
from producers.settings import ProducerSettings
from tests import load


def offline(addresses: Addresses, settings: ProducerSettings) -> Producer:
    """A producer whose batches go to the spool after 3 s, where nobody listens."""
    return Producer(
        replace(addresses, kafka=os.environ["LINE"]),
        replace(settings, delivery_timeout_ms=3_000),
        gate=GateKeeper(addresses, "producer", "consent"),
    )


if __name__ == "__main__":
    load.Producer = offline  # type: ignore[misc,assignment]
    load.main()
