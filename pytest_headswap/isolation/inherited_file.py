"""Pass an open file to a child process, whether it is forked or spawned."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any


@dataclass(frozen=True)
class InheritedFile:
    """The descriptor of an open file. A fork has the same one; a spawned process gets a duplicate on unpickling."""

    descriptor: int

    def __reduce__(self) -> tuple[Any, ...]:
        if sys.platform == "win32":
            import _winapi
            import msvcrt

            handle = msvcrt.get_osfhandle(self.descriptor)
            return _open_duplicate, (reduction.DupHandle(handle, _winapi.GENERIC_WRITE),)
        return _open_duplicate, (reduction.DupFd(self.descriptor),)


def _open_duplicate(duplicate: Any) -> InheritedFile:
    descriptor = duplicate.detach()
    if sys.platform == "win32":
        import msvcrt

        descriptor = msvcrt.open_osfhandle(descriptor, 0)
    return InheritedFile(descriptor)
