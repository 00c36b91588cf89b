"""nbval stands behind one module, and the plugin stands back where nbval is not asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_structure import MODULES, imported, relative


def test_one_module_imports_nbval() -> None:
    """What labkit needs of nbval, which is hardly maintained, is in one place."""
    assert [relative(path) for path in MODULES if "nbval" in {name.split(".")[0] for name in imported(path)}] == [
        "notebook/items.py"
    ]


@pytest.mark.slow
def test_the_plugin_is_inert_without_nbval(tmp_path: Path) -> None:
    """A run that names it but not --nbval loads neither nbval nor Jupyter, and collects no notebook."""
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test(): assert not {'nbval', 'jupyter_client'} & set(sys.modules)"
    )
    (tmp_path / "book.ipynb").write_text("no notebook")
    words = ["-p", "labkit.notebook.plugin", "-p", "no:nbval", "-p", "no:cacheprovider", "-q", "."]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
