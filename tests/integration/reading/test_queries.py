"""The example queries of docs/QUERIES.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from schemas.catalogue import BUTTONS, KINDS

TEXT = (Path(__file__).parents[3] / "docs" / "QUERIES.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)


def test_every_example_query_answers(planted, window_row):
    """With six people at work each query gives rows, and a group of four people stays hidden."""
    kinds = [KINDS["pointer_move"], KINDS["pointer_move"], KINDS["pointer_button"], KINDS["key"]]
    planted.windows(
        [
            window_row(f"s{who}-{app}", range(4), kind=kinds, pressed=[0, 0, 1, 1], button=[0, 0, 1, 0],
                       application=[app] * 4, subject=f"{who:032x}", x=[0, 30, 30, 0], y=[0, 40, 40, 0])
            for app, people in ((1, 6), (2, 4))
            for who in range(people)
        ]
    )  # fmt: skip
    planted.batch("s0", 0, 4, 9, producer_dropped={"spool_full": 5})
    hourly, typing, travel, drops = (planted.store.query_rows(query) for query in QUERIES)
    assert {row["kind"] for row in hourly.dicts()} >= {"pointer_move", "pointer_button", "key"}
    assert [(r["application"], r["keys"], r["clicks"], r["people"]) for r in typing.dicts()] == [("browser", 6, 6, 6)]
    assert [(r["first_application"], r["px_a_click"], r["people"]) for r in travel.dicts()] == [("browser", 50, 6)]
    assert [(r["stage"], r["reason"], r["events"]) for r in drops.dicts()] == [("producer", "spool_full", 5)]


def test_the_codes_in_the_examples_are_those_of_the_schema():
    """The queries on arrays name codes; they are pointer_move, pointer_button and the left button."""
    assert (KINDS["pointer_move"], KINDS["pointer_button"], BUTTONS.index("left")) == (5, 6, 1)
