"""Figure notebooks: executed afresh, compared by nbval, and redrawn byte for byte."""
import hashlib
import subprocess
import sys

import pytest

from conftest import PROJECT
from msa_paper.core import figures_folder
from msa_paper.experiment.execution import execute_notebook

FIGURES = sorted((PROJECT / "nbs" / "figures").glob("*.ipynb"))


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    "Every figure notebook, run by papermill with its own defaults; committed figures as they were before."
    folder = tmp_path_factory.mktemp("figures")
    state = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in figures_folder().rglob("*") if p.is_file()}
    return [execute_notebook(f"figures/{p.name}", folder / p.name, {}) for p in FIGURES], state


def test_redrawing_changes_no_committed_file(executed):
    _, before = executed
    after = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in figures_folder().rglob("*") if p.is_file()}
    assert after == before


def test_nbval_on_fresh_copies(executed):
    copies, _ = executed
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", *copies], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
