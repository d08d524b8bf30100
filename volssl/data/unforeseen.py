"""What failed as nobody foresaw, in words that can be passed on: the place in this library, no text of the error."""

from __future__ import annotations

import traceback
from pathlib import Path

from volssl.data.volume import RefusedError

PACKAGE = Path(__file__).parents[1]


def unforeseen(error: Exception, doing: str) -> RefusedError:
    """The refusal of a source over an error; what the error itself says may name a path or a patient.

    Args:
        doing: what was done then, as the sentence begins: `Reading it`.
    """
    if isinstance(error, MemoryError):
        return RefusedError("failed", f"{doing} asked for more memory than there is.")
    if isinstance(error, OSError) and error.strerror:
        return RefusedError("failed", f"{doing} failed: {error.strerror}.")
    return RefusedError("failed", f"{doing} failed in a way that nobody foresaw{_place(error)}: please report it.")


def _place(error: Exception) -> str:
    """The last line of this library that was on the way to the error."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(path.relative_to(PACKAGE), line) for path, line in frames if path.is_relative_to(PACKAGE)]
    return f" (volssl/{own[-1][0].as_posix()}, line {own[-1][1]})" if own else ""
