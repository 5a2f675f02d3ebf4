"""Full feature files of the field are searched, trained and scored like everything else.

The files are generated: exact in their schema, and smaller.
"""

from dataclasses import replace

import pytest

from msa_paper.data.catalogue import load_corpus
from msa_paper.formats.generated_dialogues import generated_conversations, generated_tuple
from msa_paper.formats.generated import generated_mmsa, write_pickle
from msa_paper.experiment.run import run_seed
from msa_paper.studies.configurations import configuration
from msa_paper.studies.study import experiments, study_names
from msa_paper.studies.configurations import search
from msa_paper.experiment.store import Store
from msa_paper.experiment.search import tune

SHAPES = {"aligned_50": ((7, 6), (7, 5), (7, 4)), "unaligned_39": ((7, 6), (12, 5), (9, 4))}


def write(data, declared, folder):
    path = folder / declared.data["file"]
    if data == "iemocap-features":
        write_pickle(generated_tuple(generated_conversations()), path, 2)
    else:
        write_pickle(generated_mmsa(declared.dataset, path.stem, (40, 12, 12), SHAPES[path.stem]), path)


@pytest.mark.parametrize("data", [d for d in study_names() if d.endswith("-features")])
def test_generated_files_are_searched_trained_and_scored(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MSA_PAPER_DATA", str(tmp_path))
    declared = experiments(data)[0]
    write(data, declared, tmp_path)
    fixed, data_options = declared.fixed | dict(epochs=1, patience=1), declared.data | dict(any_size=True)
    small = replace(declared, seeds=1, trials=1, fixed=fixed, data=data_options)
    results = str(tmp_path / "store")
    for model in ("full", "lmf", "graph_mfn"):
        assert configuration(small, model, results) is None, "a configuration before its search"
        spec = search(small, model, results)
        corpus = load_corpus(spec.dataset, spec.protocol, spec.task, **spec.data)
        assert len(corpus.spec.modalities) == 3
        tune(spec, corpus)
        r = configuration(small, model, results)
        run = run_seed(r, 1, corpus, Store(results))
        assert run.metrics["test"]["n"] > 0 and run.spec.data["file"] == declared.data["file"]
