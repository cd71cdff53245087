"""Running commands, and what a refused one looks like: its exit code, and one line that says why."""

from __future__ import annotations

from click.testing import CliRunner, Result

from tiacrossfusion.cli import main

FAILED = 1
USAGE = 2


def tiacf(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, *words: str, code: int) -> None:
    """The command ended with a code, and one line with these words says why."""
    lines = [line for line in result.output.splitlines() if line.startswith(("FAILED", "Error:"))]
    assert result.exit_code == code, result.output
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0], lines[0]


def assert_failed(result: Result, *words: str) -> None:
    """Something failed, and one line with these words says what."""
    assert_refused(result, *words, code=FAILED)


def assert_usage(result: Result, *words: str) -> None:
    """The options are at fault, and one line with these words says which."""
    assert_refused(result, *words, code=USAGE)
