from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.desktop.keys import key_class
from schemas.catalogue import KEY_CLASSES


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (SimpleNamespace(char="a"), "letter"),
        (SimpleNamespace(char="Ä"), "letter"),
        (SimpleNamespace(char="7"), "digit"),
        (SimpleNamespace(char="$"), "punctuation"),
        (SimpleNamespace(char="\u00a0"), "space"),
        (SimpleNamespace(char="\x03"), "other"),
        (SimpleNamespace(char=None), "other"),
        (SimpleNamespace(name="space"), "space"),
        (SimpleNamespace(name="backspace"), "editing"),
        (SimpleNamespace(name="page_up"), "navigation"),
        (SimpleNamespace(name="shift_r"), "modifier"),
        (SimpleNamespace(name="f12"), "function"),
        (SimpleNamespace(name="media_next"), "other"),
    ],
)
def test_each_key_has_the_class_a_person_would_give_it(key, expected):
    """A key is told by its class alone, and the class is the one its name or character suggests."""
    assert key_class(key) == expected


@given(st.text(min_size=1, max_size=2))
def test_only_symbols_of_the_schema_come_out(char):
    """Whatever the keyboard sends, nothing but a class that the schema knows leaves the function."""
    assert key_class(SimpleNamespace(char=char)) in KEY_CLASSES


def test_every_letter_is_alike():
    """Two letters cannot be told apart by what the function returns."""
    assert {key_class(SimpleNamespace(char=c)) for c in "aZqßж"} == {"letter"}
