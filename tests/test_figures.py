"""Figure notebooks, executed afresh: nbval finds committed outputs again, and they draw what is committed."""

import json
import os
import subprocess
import sys

import pytest

from conftest import PROJECT
from drawn import differences

FIGURES = sorted((PROJECT / "nbs" / "figures").glob("*.ipynb"))
NBVAL = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]


def numbered(path, folder):
    "A copy with numbered cells: nbdev cleans numbers away, and nbval takes a cell without one as not run."
    notebook = json.loads(path.read_text())
    for k, cell in enumerate(c for c in notebook["cells"] if c["cell_type"] == "code"):
        cell["execution_count"] = k + 1
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = k + 1
    copy = folder / path.name
    copy.write_text(json.dumps(notebook))
    return copy


@pytest.fixture(scope="session")
def executed(tmp_path_factory):
    "What nbval says of every figure notebook with its own defaults, two at a time, and where they drew."
    folder, drawn = tmp_path_factory.mktemp("figures"), tmp_path_factory.mktemp("drawn")
    copies = [numbered(p, folder) for p in FIGURES]
    environment = os.environ | dict(MSA_PAPER_FIGURES=str(drawn))
    running = [
        subprocess.Popen(
            [*NBVAL, *half],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for half in (copies[::2], copies[1::2])
    ]
    return [(p.communicate()[0], p.returncode) for p in running], drawn


def test_what_is_drawn_again_is_what_is_committed(executed):
    found = differences(executed[1], PROJECT / "figures")
    assert found == {} and len(list(executed[1].rglob("*.png"))) > 15


def test_nbval_finds_the_committed_outputs_again(executed):
    for told, code in executed[0]:
        assert code == 0, told[-3000:]


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.stem)
def test_every_page_is_there_to_be_read(path):
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert cells[-1]["outputs"] and not any(o.get("name") == "stderr" for o in cells[-1]["outputs"]), (
        "run `make pages`"
    )
