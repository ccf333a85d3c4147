"""From a pressed key to its class. The key goes no further than this module."""

from __future__ import annotations

import unicodedata
from typing import Any, Final

EDITING: Final = frozenset({"backspace", "delete", "insert"})
NAVIGATION: Final = frozenset({"up", "down", "left", "right", "home", "end", "page_up", "page_down"})
MODIFIER: Final = frozenset(
    f"{name}{side}" for name in ("alt", "ctrl", "shift", "cmd") for side in ("", "_l", "_r", "_gr")
) | {"caps_lock", "num_lock", "scroll_lock"}


def key_class(key: Any) -> str:
    """Return the class of a pynput `Key` or `KeyCode`, one of the schema's KeyClass symbols.

    Only the class is returned: nothing that tells one letter, digit or sign
    from another. A key that cannot be classified is `other`.
    """
    name = getattr(key, "name", None)
    if isinstance(name, str):
        return _named(name)
    char = getattr(key, "char", None)
    if isinstance(char, str) and char:
        return _character(char)
    return "other"


def _named(name: str) -> str:
    if name in ("space", "enter", "tab"):
        return name
    for members, result in ((EDITING, "editing"), (NAVIGATION, "navigation"), (MODIFIER, "modifier")):
        if name in members:
            return result
    if name[0] == "f" and name[1:].isdigit():
        return "function"
    return "other"


def _character(char: str) -> str:
    """Classify by Unicode general category (UAX #44): L* letters, N* digits, P* and S* signs, Z* spaces."""
    category = unicodedata.category(char[0])[0]
    return {"L": "letter", "M": "letter", "N": "digit", "P": "punctuation", "S": "punctuation", "Z": "space"}.get(
        category, "other"
    )
