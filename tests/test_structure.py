"""The shape of the project: notebooks and modules match, run notebooks define nothing."""

import ast
import importlib
import inspect
import json
import re
from collections import Counter

import pytest

from conftest import NOTEBOOKS, PROJECT
from msa_paper.experiment.specification import SPECIFICATIONS


def cells(path, kind="code"):
    return [
        dict(c, source="".join(c["source"]))
        for c in json.loads(path.read_text())["cells"]
        if c["cell_type"] == kind
    ]


def exports(path):
    return next(
        (m.group(1) for c in cells(path) for m in [re.match(r"#\| default_exp (\S+)", c["source"])] if m),
        None,
    )


LIBRARY = {p: exports(p) for p in NOTEBOOKS if exports(p)}
RUNS = [p for p in NOTEBOOKS if p.parent.name == "runs"]
FIGURES = [p for p in NOTEBOOKS if p.parent.name == "figures"]
MODULES = sorted(
    ".".join(p.relative_to(PROJECT / "msa_paper").with_suffix("").parts)
    for p in (PROJECT / "msa_paper").rglob("*.py")
    if p.name not in ("__init__.py", "_modidx.py")
)


def names(path):
    "How a notebook is called in the names of tests."
    return str(path.relative_to(PROJECT))


def test_each_module_has_its_notebook_and_the_reverse():
    assert sorted(LIBRARY.values()) == MODULES
    assert not [m for m, n in Counter(LIBRARY.values()).items() if n > 1], "two notebooks export one module"


def test_folders_mirror_the_package():
    for path, module in LIBRARY.items():
        assert path.parent.relative_to(PROJECT / "nbs").parts == tuple(module.split(".")[:-1]), names(path)


@pytest.mark.parametrize("path", RUNS, ids=names)
def test_run_notebooks_have_one_parameters_cell_and_define_nothing(path):
    tagged = [c for c in cells(path) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    given = [t.id for node in ast.parse(tagged[0]["source"]).body for t in node.targets]
    assert sorted(given) == sorted(SPECIFICATIONS[path.stem].model_fields)
    source = "\n".join(re.sub(r"^[%!].*$", "", c["source"], flags=re.M) for c in cells(path))
    assert not [
        n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.Lambda))
    ]
    assert "#| export" not in source and len(cells(path)) + len(cells(path, "markdown")) <= 15


@pytest.mark.parametrize("path", RUNS, ids=names)
def test_run_notebooks_have_the_defaults_of_their_specification(path):
    tagged = next(c for c in cells(path) if "parameters" in c["metadata"].get("tags", []))
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(tagged["source"]).body}
    kind = SPECIFICATIONS[path.stem]
    assert kind(**values) == kind()


@pytest.mark.parametrize("path", FIGURES, ids=names)
def test_figure_notebooks_draw_with_one_function_and_do_not_train(path):
    source = "\n".join(c["source"] for c in cells(path))
    assert "#| export" not in source and "run_seed" not in source and "fit(" not in source
    assert (
        len(re.findall(r"^from msa_paper\.(?:report|evidence)\.\w+ import (\w+)$", source, flags=re.M)) == 1
    )


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name != "index.ipynb"], ids=names)
def test_every_page_has_a_title_and_a_subtitle(path):
    first = cells(path, "markdown")[0]["source"]
    assert re.match(r"# .+\n> .+", first)


@pytest.mark.parametrize("path", LIBRARY, ids=names)
def test_exported_cells_are_short_and_checked(path):
    sources = [c["source"] for c in cells(path)]
    for s in (s for s in sources if "#| export" in s):
        assert len([l for l in s.splitlines() if l.strip() and not l.startswith("#|")]) <= 40, s[:80]
    exported = [
        s
        for s in sources
        if re.search(r"^#\| export$", s, flags=re.M) and re.search(r"^(def|class) ", s, flags=re.M)
    ]
    checks = [s for s in sources if "#| export" not in s and ("assert" in s or "raises" in s)]
    assert len(checks) * 4 >= len(exported), "too few cells check what is exported"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_export_says_what_it_is(module):
    m = importlib.import_module(f"msa_paper.{module}")
    for name in getattr(m, "__all__", []):
        thing = getattr(m, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert (thing.__doc__ or "").strip() and not thing.__doc__.startswith(f"{name}("), (
                f"{module}.{name} has no docstring"
            )


def test_constraints_pin_everything_that_is_required():
    settings = (PROJECT / "settings.ini").read_text()
    pinned = {
        re.split("==", l)[0].lower().replace("_", "-")
        for l in (PROJECT / "constraints.txt").read_text().split()
    }
    for extra in ("", "dev_", "text_", "cluster_", "media_", "mpnet_", "multilingual_"):
        key = f"{extra}requirements"
        for package in re.search(rf"^{key} = (.*)$", settings, flags=re.M).group(1).split():
            assert package.lower().replace("_", "-") in pinned, package


def test_readme_equals_its_rendering():
    from msa_paper.commands.pages import render_readme

    assert (PROJECT / "README.md").read_text() == render_readme(), "run `make readme`"


def lost_links(told, folder):
    "Links of a page to files that are not there, and notebooks that it names and that are not there."
    near = [t for t in re.findall(r"\]\(([^)#\s]+)", told) if not re.match(r"https?:|mailto:|attachment:", t)]
    named = re.findall(r"nbs/[\w/]+\.ipynb", told)
    lost = [t for t in near if not (folder / t).exists()]
    return lost + [t for t in named if not (PROJECT / t).exists()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=names)
def test_links_between_pages_lead_somewhere(path):
    told = "\n".join(c["source"] for c in cells(path, "markdown"))
    assert not lost_links(told, path.parent)


@pytest.mark.parametrize("page", ["README.md", "data/README.md"])
def test_links_of_what_is_read_first_lead_somewhere(page):
    path = PROJECT / page
    assert not lost_links(path.read_text(), path.parent)
