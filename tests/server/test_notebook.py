"""A stranger's notebook, in a folder of its own: new, record, check; and what check and the plugin for nbval catch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from labkit.notebook.outputs import PICTURE
from tests.support.watching import becomes_true

pytestmark = pytest.mark.timeout(120)
PYTHONPATH = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
ADDED = {
    "lab  # which launcher?": [],
    "healthy = await lab.read()\nhealthy": [],
    "assert healthy.complete": [],
    "lab.source_urls": [],
    "healthy.timeline()  # with times": ["nbval-ignore-output"],
    "assert healthy.elapsed < lab.timeout": [],
    "print(lab.urls[1], lab.folder, f'{healthy.elapsed} s')": [],
    "import warnings": [],
}
"""Cells that a stranger puts before the last one, with their tags."""


RAISING = [
    new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
    new_code_cell("a = {}\na['key']"),
    new_code_cell("open('ran', 'w').close()"),
]
RAISED = (
    "labkit: raises.ipynb, cell 2 (a = {}): nothing is written, since it raises KeyError: 'key' in \"a['key']\": "
    "correct it, or tag it 'raises-exception' if that is the point\n"
)


def run(*words: str, where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python program in that folder, outside of the repository."""
    variables = {**os.environ, "PYTHONPATH": PYTHONPATH, **environment}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=where, capture_output=True, text=True, timeout=100, env=variables
    )


def code(book: Any) -> list[Any]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def cell_of(book: Any, beginning: str) -> Any:
    [cell] = [cell for cell in code(book) if cell.source.startswith(beginning)]
    return cell


def number_of(book: Any, beginning: str) -> int:
    return code(book).index(cell_of(book, beginning)) + 1


def copied(recorded: Path, folder: Path, change: Callable[[Any], object]) -> Path:
    """A changed copy of the recorded notebook."""
    book = deepcopy(nbformat.read(recorded, as_version=4))
    change(book)
    nbformat.write(book, folder / "copy.ipynb")
    return folder / "copy.ipynb"


def spoil(book: Any) -> None:
    """A fault that does nothing, a changed picture, a fault that nobody meets, one that lasts, a lab left running."""
    experiment = cell_of(book, "async with lab.fault(2")
    experiment.source = experiment.source.replace("faults.Pause()", "faults.Latency(0)")
    cell_of(book, "assert result.missing").source = "assert result"
    html = cell_of(book, "healthy = ").outputs[0].data
    svg = b64decode(PICTURE.search(html["text/html"])[1]).decode().replace('data-high="20"', 'data-high="21"')
    html["text/html"] = PICTURE.sub(
        f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}", html["text/html"], count=1
    )
    cell_of(book, "import warnings").source = "async with lab.fault(1, faults.Latency(3)):\n    pass"
    code(book)[-1].source = "await lab.inject(1, faults.Latency(4))"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new notebook with a few more cells, recorded after one that raises."""
    folder = tmp_path_factory.mktemp("stranger")
    done = run("labkit", "notebook", "new", "mine", where=folder)
    assert (done.returncode, done.stderr) == (0, "")
    path = folder / "mine.ipynb"
    book = nbformat.read(path, as_version=4)
    added = [new_code_cell(source, metadata={"tags": tags} if tags else {}) for source, tags in ADDED.items()]
    book.cells[-1:-1] = added
    book.cells[0].metadata["collapsed"] = True
    nbformat.write(book, path)
    nbformat.write(new_notebook(cells=RAISING), folder / "raises.ipynb")
    done = run("labkit", "notebook", "record", "raises.ipynb", "mine.ipynb", where=folder)
    assert (done.returncode, done.stdout) == (1, f"mine.ipynb: {len(code(book))} cells recorded\n")
    assert done.stderr == RAISED
    return path


def test_it_is_recorded_without_what_differs_from_run_to_run(recorded: Path) -> None:
    """Every cell ran in order; compared outputs have no ports, passwords, paths and times, others do; no metadata of
    the run is kept.
    """
    book = nbformat.read(recorded, as_version=4)
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    assert cell_of(book, "lab.urls").outputs[0].data["text/plain"].count("redis://:…@127.0.0.1:…/0") == 3
    assert cell_of(book, "print(lab.urls[1]").outputs[0].text == "redis://:…@127.0.0.1:…/0 … … s\n"
    assert cell_of(book, "lab  #").outputs[0].execution_count == number_of(book, "lab  #")
    drawn = {
        start: b64decode(PICTURE.search(cell_of(book, start).outputs[0].data["text/html"])[1]).decode()
        for start in ("result.timeline()", "healthy.timeline()", "healthy = ")
    }
    assert ["data-elapsed" in svg for svg in drawn.values()] == [False, True, False]
    assert not [cell for cell in book.cells if {"execution", "collapsed"} & set(cell.metadata)]
    assert "version" not in book.metadata.language_info


@pytest.fixture(scope="module")
def checked(recorded: Path) -> tuple[subprocess.CompletedProcess[str], bool]:
    """The check of a copy that is spoiled and of the notebook itself, and whether it left both files alone."""
    files = [copied(recorded, recorded.parent, spoil), recorded]
    before = [path.read_bytes() for path in files]
    done = run("labkit", "notebook", "check", *(path.name for path in files), where=recorded.parent)
    return done, before == [path.read_bytes() for path in files]


def test_a_cell_that_raises_is_one_line_and_nothing_is_written(recorded: Path) -> None:
    """It names the cell, the error and its line; a cell tagged raises-exception may raise; the next notebook is run."""
    raising = nbformat.read(recorded.parent / "raises.ipynb", as_version=4)
    assert [(cell.source, cell.outputs) for cell in raising.cells] == [(cell.source, []) for cell in RAISING]
    assert not (recorded.parent / "ran").exists()


def test_it_passes(recorded: Path, checked: tuple[subprocess.CompletedProcess[str], bool]) -> None:
    """check says so on one line and writes nothing. Below, it passes again."""
    cells = len(code(nbformat.read(recorded, as_version=4)))
    assert checked[0].stdout == f"mine.ipynb: {cells} cells as recorded, and nothing is left\n"
    assert checked[1]


@pytest.mark.docker
def test_it_passes_with_containers(recorded: Path) -> None:
    """Recorded from server processes, the same outputs hold for servers in containers."""
    done = run("labkit", "notebook", "check", "mine.ipynb", where=recorded.parent, LABKIT_LAUNCHER="docker")
    assert (done.returncode, done.stderr) == (0, "")


def test_plain_nbval_passes_too(recorded: Path, tmp_path: Path) -> None:
    """Strict, without an option or file of labkit's: a starting lab, lab, lab.urls, a result and its timeline are the
    same on every run. Only the cell whose own text had to be hidden is left out.
    """
    path = copied(recorded, tmp_path, lambda book: book.cells.remove(cell_of(book, "print(lab.urls[1]")))
    done = run("pytest", "--nbval", "-q", "-p", "no:cacheprovider", path.name, where=tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"{len(code(nbformat.read(path, as_version=4)))} passed" in done.stdout


def test_check_catches_what_no_longer_holds(
    recorded: Path, checked: tuple[subprocess.CompletedProcess[str], bool]
) -> None:
    """Each as one line with notebook, cell and what to do; exit 1; the notebook is left alone, and nothing runs on."""
    book = nbformat.read(recorded.parent / "copy.ipynb", as_version=4)
    assert checked[0].returncode == 1
    assert checked[1]
    told = checked[0].stderr.splitlines()
    places = {
        line: f"labkit: copy.ipynb, cell {number_of(book, line)} ("
        for line in (
            "async with lab.fault(2",
            "result.timeline()",
            "healthy = ",
            "async with lab.fault(1",
            "await lab.inject",
        )
    }
    parts = [
        (places["async with lab.fault(2"], "it shows 'complete: 60 rows, nothing missing' where 'incomplete: "),
        (places["result.timeline()"], "it shows another picture, with "),
        (places["healthy = "], "it shows another picture, with "),
        (places["async with lab.fault(1"], "Latency(3) never fired on shard 1: no client met it: it tests nothing"),
        ("labkit: copy.ipynb: ", "Latency(4) never fired on shard 1: it tests nothing"),
        (places["await lab.inject"], "it leaves keeper process "),
    ]
    for line, (place, text) in zip(told, parts, strict=True):
        assert line.startswith(place), line
        assert text in line, line
    keeper = int(told[-1].split("keeper process ")[1].split(",")[0])
    assert becomes_true(lambda: not psutil.pid_exists(keeper))


def test_the_plugin_catches_it_under_nbval(recorded: Path, tmp_path: Path) -> None:
    """The same, and a cell that never ran, as failed tests of nbval's."""

    def change(book: Any) -> None:
        spoil(book)
        cell_of(book, "lab.source_urls").execution_count = None
        cell_of(book, "lab.source_urls").outputs = []

    path = copied(recorded, tmp_path, change)
    words = ["--nbval", "-p", "labkit.notebook.plugin", "-q", "-p", "no:cacheprovider", "--color=no", path.name]
    done = run("pytest", *words, where=tmp_path)
    assert done.returncode == 1, done.stdout
    for line in (
        f"cell {number_of(nbformat.read(path, as_version=4), 'lab.source_urls')} (lab.source_urls): it never ran",
        "it shows 'complete: 60 rows, nothing missing' where 'incomplete: ",
        "Latency(3) never fired on shard 1",
        "Latency(4) never fired on shard 1",
        "it leaves keeper process ",
    ):
        assert line in done.stdout, done.stdout
    assert "6 failed" in done.stdout


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_who_is_interrupted_or_killed_leaves_nothing(sign: signal.Signals, code: int, tmp_path: Path) -> None:
    """The kernel ends, and no socket, connection file or notebook is left behind."""
    tell = "import os, asyncio\nopen('pid', 'w').write(str(os.getpid()))\nos.rename('pid', 'here')"
    wait = f"{tell}\nawait asyncio.sleep(90)"
    nbformat.write(new_notebook(cells=[new_code_cell(wait)]), tmp_path / "waits.ipynb")
    before = (tmp_path / "waits.ipynb").read_bytes()
    (tmp_path / "tmp").mkdir()
    variables = {
        **os.environ,
        "PYTHONPATH": PYTHONPATH,
        "TMPDIR": str(tmp_path / "tmp"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "tmp"),
    }
    command = [sys.executable, "-m", "labkit", "notebook", "record", "waits.ipynb"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=variables) as process:
        assert becomes_true((tmp_path / "here").exists)
        kernel = psutil.Process(int((tmp_path / "here").read_text()))
        process.send_signal(sign)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert becomes_true(lambda: not kernel.is_running())
    assert sign == signal.SIGKILL or said == "labkit: interrupted\n"
    assert os.listdir(tmp_path / "tmp") == []
    assert (tmp_path / "waits.ipynb").read_bytes() == before
