"""The notebooks of the documentation run from the first to the last cell."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

pytestmark = [
    pytest.mark.integration,
    # The kernel's client closes its sockets at the end of the process.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs] == [], (
        "commit without outputs"
    )
    done = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert any(output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs)


def test_there_are_notebooks():
    assert len(list(EXAMPLES.glob("*.ipynb"))) >= 2
