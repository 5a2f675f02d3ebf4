"""Another machine draws the same: other threads, every numerical library held to older instructions."""

import os
import subprocess
import sys

import pytest

from conftest import PROJECT
from drawn import differences
from msa_paper.experiment.published import open_results

OLDER = {
    "OMP_NUM_THREADS": "3",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "MKL_CBWR": "COMPATIBLE",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
    "AVX512_SPR",
}


def tree():
    return subprocess.run(
        ["git", "status", "--porcelain"], cwd=PROJECT, capture_output=True, text=True
    ).stdout


def numpy_features():
    "Features that this NumPy can do without here: it refuses to be told of others."
    import numpy as np

    known = np._core._multiarray_umath.__cpu_dispatch__
    return " ".join(f for f in OLDER["NPY_DISABLE_CPU_FEATURES"].split() if f in known)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("drawn"), tree()
    environment = (
        os.environ
        | OLDER
        | {"NPY_DISABLE_CPU_FEATURES": numpy_features(), "MSA_PAPER_RUNS": str(folder / "runs")}
    )
    command = [
        sys.executable,
        "-c",
        "import sys; from msa_paper.cli import main; sys.exit(main(sys.argv[1:]))",
        "figures",
        "--figures",
        str(folder / "figures"),
    ]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "figures", before, done.stdout


def test_every_page_is_drawn_on_an_older_machine(drawn):
    assert drawn[2].count("drawn: ") >= 5 + 3 * len(
        [s for s in open_results().studies if s in ("planted", "mosi", "iemocap", "mosei")]
    )


def test_what_it_draws_is_what_is_committed(drawn):
    assert differences(drawn[0], PROJECT / "figures") == {}


def test_the_tree_is_unchanged(drawn):
    assert tree() == drawn[1]
