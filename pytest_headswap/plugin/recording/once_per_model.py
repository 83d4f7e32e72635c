"""Keep the journal small: what several results of a model share is in the first of them."""

from __future__ import annotations

from dataclasses import replace

from pytest_headswap.results import Result


class OncePerModel:
    """Drops the heads and tracebacks that an earlier result of the same model already has."""

    def __init__(self) -> None:
        self._heads: set[tuple[str, str]] = set()
        self._tracebacks: set[int] = set()

    def without_known(self, result: Result) -> Result:
        """Return the result without what has been written for its model."""
        model = result.zoo, result.model
        if result.anatomy is not None:
            result = replace(result, anatomy=None if model in self._heads else result.anatomy)
            self._heads.add(model)
        if result.traceback:
            written = hash((model, result.traceback))
            result = replace(result, traceback="" if written in self._tracebacks else result.traceback)
            self._tracebacks.add(written)
        return result
