"""What a user reads of an error: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
import traceback


class UserError(Exception):
    """Bad input, said in one line. The command line prints it without a traceback and exits with 1."""


class UsageError(UserError):
    """A command that was written wrongly: an unknown option, or a value of the wrong type. Exits with 2."""


class SizeError(UserError, ValueError):
    """A volume of a size that a network cannot take: what a caller may expect as a ValueError, in a user's words."""


def user_error_in(error: BaseException | None) -> UserError | None:
    """The UserError behind an exception that a library raised on its account, if there is one."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def file_error(error: Exception) -> str | None:
    """The line for a disk that is full or a path that may not be used, wherever it was noticed."""
    if not isinstance(error, OSError):
        return None
    said = {
        errno.ENOSPC: "the disk is full; free some space and run the command again",
        errno.EDQUOT: "the quota of the disk is used up; free some space and run the command again",
        errno.EACCES: "there is no permission to use it; ask for it, or name another place",
        errno.EPERM: "there is no permission to use it; ask for it, or name another place",
        errno.EROFS: "its disk is read-only; name another place",
        errno.ENOTDIR: "a part of this path is a file where a folder should be; name another place",
    }.get(error.errno or 0)
    return f"{error.filename or 'a file'}: {said}" if said else None


def unforeseen(error: BaseException) -> str:
    """An error that no command foresaw in one line: the one at the root, not the library's wrappers around it.

    A ValueError of volssl's own says what it was given and what it wants; of others, the kind is told too.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = (str(error).strip().splitlines() or ["no further word"])[0]
    return text if isinstance(error, ValueError) and raised_here(error) else f"{type(error).__name__}: {text}"


def raised_here(error: BaseException) -> bool:
    """Whether a function of volssl raised it, not one of a library that it called."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get("__name__", "")).startswith("volssl.")
