"""What a refused command looks like: its exit code, and one line that says why."""

from __future__ import annotations

from click.testing import Result

FAILED = 1
USAGE = 2


def assert_failed(result: Result, *words: str) -> None:
    """Something failed, and one line with these words says what."""
    _assert_one_line(result, FAILED, words)


def assert_usage(result: Result, *words: str) -> None:
    """The options are at fault, and one line with these words says which."""
    _assert_one_line(result, USAGE, words)


def _assert_one_line(result: Result, exit_code: int, words: tuple[str, ...]) -> None:
    lines = [line for line in result.output.splitlines() if line.startswith(("FAILED", "Error:"))]
    assert result.exit_code == exit_code, result.output
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in lines[0], lines[0]
