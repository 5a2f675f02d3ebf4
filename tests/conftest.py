"""What the tests share: where things are."""

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
