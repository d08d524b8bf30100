"""The one exception a user is meant to read: a line that says what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, said in one line. The command line prints it without a traceback and exits with 1."""


class UsageError(UserError):
    """A command that was written wrongly: an unknown option, or a value of the wrong type. Exits with 2."""


def user_error_in(error: BaseException | None) -> UserError | None:
    """The UserError behind an exception that a library raised on its account, if there is one."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None
