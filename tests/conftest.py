"""What the tests share: where things are."""

import sys

import pytest

from msa_paper.core import data_folder, project_folder

PROJECT = project_folder()
NOTEBOOKS = sorted(p for p in (PROJECT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


@pytest.fixture(scope="session")
def mosi_folder():
    "The data folder, when it holds the real MOSI files."
    if not (data_folder() / "mosi" / "bclstm").is_dir():
        pytest.skip(f"no real MOSI files in {data_folder().name}/ (MSA_PAPER_DATA)")
    return data_folder()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_adopted():
    "What the tests of a module make known of made-up data is forgotten when they end."
    yield
    if "msa_paper.studies.gathered" in sys.modules:
        sys.modules["msa_paper.studies.gathered"].forget()
    elif "msa_paper.data.own" in sys.modules:
        sys.modules["msa_paper.data.own"].forget_own()
