"""The exceptions that users are meant to read."""

from tiacrossfusion.terminal import printable


class TiacfError(Exception):
    """A problem with the input that the user can mend.

    Its message is one line: it names the thing (file, option, field) and the remedy. The command line
    prints it without a traceback and exits with 1; any other exception is a defect of this package.
    """


class UsageError(TiacfError):
    """What was asked for cannot be: an option or an argument is missing, wrong, or names nothing.

    It is raised before any work is begun; the command line exits with 2. What lies in a file that is
    there, and what happens during the work, is a plain `TiacfError`.
    """


def one_line(error: BaseException, limit: int = 200) -> str:
    """Name and text of a library's error in one line of at most about `limit` characters."""
    text = printable(" ".join(str(error).split()))
    if len(text) > limit:
        text = text[:limit].rsplit(" ", 1)[0] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
