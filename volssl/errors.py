"""The one exception a user is meant to read: a line that says what is wrong, where, and what to do."""


class UserError(Exception):
    """Bad input, said in one line. The command line prints it without a traceback and exits with 1."""
