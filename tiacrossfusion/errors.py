"""The one exception that users are meant to read."""


class TiacfError(Exception):
    """A problem with the input that the user can mend.

    Its message is one line: it names the thing (file, option, field) and the remedy. The command line
    prints it without a traceback and exits with 1; any other exception is a defect of this package.
    """
