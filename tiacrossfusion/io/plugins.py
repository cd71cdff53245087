"""Python modules of users that register encoders, networks, output formats and the like."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from tiacrossfusion.errors import TiacfError, UsageError, one_line
from tiacrossfusion.io.paths import is_file, missing


def load_plugins(plugins: Iterable[str]) -> tuple[str, ...]:
    """Import modules so that what they register is known; each once in a process.

    Args:
        plugins: names of modules such as "my_package.encoders", or paths of Python files, whose names
            end with `.py`.

    Returns:
        The same, with absolute paths: so other processes on this file system can load them too.

    Raises:
        UsageError: there is no such module or file.
        TiacfError: it cannot be imported.
    """
    return tuple(_load(plugin) for plugin in plugins)


def _load(plugin: str) -> str:
    if plugin.endswith(".py"):
        path = Path(plugin).absolute()
        _import_file(path)
        return str(path)
    try:
        import_module(plugin)
    except ModuleNotFoundError as error:
        if error.name is not None and (plugin + ".").startswith(error.name + "."):
            raise UsageError(
                f"--plugin {plugin}: no such module is installed; give an installed module, or the path "
                "of a Python file that ends with .py"
            ) from error
        raise _broken(plugin, error) from error
    except (Exception, SystemExit) as error:  # it is another author's
        raise _broken(plugin, error) from error
    return plugin


def _import_file(path: Path) -> None:
    """Import a file as a module of its name, unless it is imported already."""
    if not is_file(path):
        raise UsageError(f"--plugin {path}: {missing(path)}; check the path")
    name = path.stem.replace(".", "_")
    if name in sys.modules:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin == str(path):
            return
    else:
        found = find_spec(name)
        origin = None if found is None else found.origin or name
    if origin not in (None, str(path)):
        raise UsageError(f"--plugin {path}: another module is called {name}; rename the file")
    spec = spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101 - of a name that ends with .py there is one
    assert spec.loader is not None  # noqa: S101
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _broken(str(path), error) from error


def _broken(plugin: str, error: BaseException) -> TiacfError:
    return TiacfError(f"--plugin {plugin}: cannot be imported ({one_line(error)}); correct it")
