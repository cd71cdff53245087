"""Where `tiacf` and `python -m tiacrossfusion` begin: before the imports, which Ctrl-C may meet too."""

from __future__ import annotations

from tiacrossfusion import interruption


def main() -> None:
    """Run the command line."""
    try:
        interruption.listen()
        from tiacrossfusion.cli import main as commands

        commands(prog_name="tiacf")
    except BaseException:
        if interruption.interrupted():
            interruption.end()
        raise
    finally:
        interruption.stop_listening()


if __name__ == "__main__":
    main()
