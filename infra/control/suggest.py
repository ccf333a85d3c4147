"""Tells a person which name they may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return a sentence saying that a name is not known, with the nearest one that is, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"unknown {what} `{name}`; did you mean `{near[0]}`?"
    return f"unknown {what} `{name}`; there are {', '.join(names) or 'none'}."
