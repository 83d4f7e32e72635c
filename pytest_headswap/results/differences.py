"""Say how the versions and options of an earlier run differ from those of this run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pytest_headswap.results.journal import JournalHeader

_MODEL_NAME_OPTIONS = ("part", "selection")  # options that hold model names


def differences(then: JournalHeader, now: JournalHeader) -> Iterator[str]:
    """Yield a sentence for each difference."""
    now = replace(now, options=json.loads(json.dumps(now.options)))
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
        ({"Python": then.python}, {"Python": now.python}),
        (then.versions, now.versions),
        (then.options, now.options),
    ]
    for old, new in pairs:
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                sentence = f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
                yield sentence if key not in _MODEL_NAME_OPTIONS else f"{key} differs"
