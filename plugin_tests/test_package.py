"""What is shipped: declared dependencies, a wheel that works on its own."""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import import_module, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.process

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*command: str | Path, **options) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=REPOSITORY)
    (path,) = folder.glob("*.whl")
    return path


def test_every_import_is_declared(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("METADATA"))
        text = archive.read(name).decode()
    declared = {
        Requirement(line.split(":", 1)[1].split(";")[0]).name.lower().replace("_", "-")
        for line in text.splitlines()
        if line.startswith("Requires-Dist") and "extra == 'test'" not in line
    }
    homes = metadata.packages_distributions()
    for path in (REPOSITORY / "tiacrossfusion").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for top in {name.split(".")[0] for name in names}:
                if top in sys.stdlib_module_names or top == "tiacrossfusion":
                    continue
                providers = {home.lower().replace("_", "-") for home in homes.get(top, [])}
                assert providers & declared, f"{path.name} imports {top}, which is not declared"


@pytest.mark.slow
def test_the_wheel_works_where_only_its_dependencies_are(wheel, simulated, tmp_path):
    """A new environment with this wheel and what it declares, without this repository."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin_path = tmp_path / "venv" / "bin"
    python = bin_path / "python"
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    here = Path(sysconfig.get_path("purelib"))
    for dependency in declared_closure("tiacrossfusion"):
        for entry in {file.parts[0] for file in metadata.distribution(dependency).files or []}:
            source, target = here / entry, site / entry
            if entry != ".." and source.exists() and not target.exists():
                target.symlink_to(source)
    assert "crossfusion-demo" in run(bin_path / "tiacf", "models", cwd=tmp_path)
    out = tmp_path / "out"
    run(
        bin_path / "tiacf",
        "predict",
        "--img-input",
        simulated / "low.svs",
        "--output-path",
        out,
        cwd=tmp_path,
    )
    assert (out / "low.geojson").exists()
    where = run(python, "-c", "import tiacrossfusion; print(tiacrossfusion.__file__)", cwd=tmp_path)
    assert where.startswith(str(site))


def test_public_names_load_and_are_known_to_type_checkers():
    import tiacrossfusion

    tree = ast.parse(Path(tiacrossfusion.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = [(node.module, alias) for node in block.body for alias in node.names]
    assert {alias.asname for _, alias in typed} == set(tiacrossfusion.__all__)
    assert {"SurvivalPredictor", "extract", "train"} <= set(tiacrossfusion.__all__)
    for module, alias in typed:
        assert getattr(tiacrossfusion, alias.asname) is getattr(import_module(module), alias.name)


def declared_closure(name: str) -> set[str]:
    """Names of all distributions that one needs, directly or through others."""
    found: set[str] = set()
    waiting = [(name, frozenset[str]())]
    seen = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": e}) for e in extras or {""}):
                continue
            try:
                metadata.distribution(requirement.name)
            except metadata.PackageNotFoundError:
                continue  # for another platform
            found.add(requirement.name)
            waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


def test_nothing_big_or_foreign_is_tracked():
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a clone")
    for name in run("git", "ls-files", cwd=REPOSITORY).splitlines():
        path = REPOSITORY / name
        assert path.stat().st_size <= 4 << 20, name
        assert not name.endswith((".lock", "requirements.txt")), name
