"""What the house is like: `python tests/house.py [FOLDER]` measures a checkout and prints one line a measure.

Everything about code is read, nothing is imported; `--times` also starts processes and times them.
"""

import ast
import io
import json
import re
import statistics
import subprocess
import sys
import time
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
WIDTH, LONGEST_CELL, LARGEST_CELL, LONGEST_MODULE = 110, 40, 1800, 300
# a module may import from what stands before it
LAYERS = """core registry processes tasks intensity schema batch corpus loaders formats media extract data
model baselines measures experiment studies jobs report evidence benchmark commands cli face""".split()
BLOCKS = ast.FunctionDef, ast.ClassDef, ast.If, ast.For, ast.While, ast.With, ast.Try


@dataclass
class Cell:
    "A code cell of a notebook, or a file of tests."

    where: str
    source: str
    exported: bool
    public: bool = False
    test: bool = False  # a file of tests, measured as one cell

    @property
    def lines(self):
        return [line for line in self.source.splitlines() if line.strip() and not line.startswith("#|")]

    @property
    def tree(self):
        return ast.parse(self.source if self.test else re.sub(r"^([%!].*)$", "", self.source, flags=re.M))


@dataclass
class House:
    "Cells and modules of a checkout."

    folder: Path
    cells: list[Cell] = field(default_factory=list)

    def __post_init__(self):
        for path in sorted((self.folder / "nbs").rglob("*.ipynb")):
            if ".ipynb_checkpoints" in path.parts:
                continue
            for number, c in enumerate(json.loads(path.read_text())["cells"]):
                source = "".join(c["source"])
                if c["cell_type"] == "code" and source.strip():
                    where = f"{path.relative_to(self.folder)}, cell {number}"
                    exported = re.search(r"^#\|\s*(exporti?)\b", source, re.M)
                    public = bool(exported) and exported[1] == "export"
                    self.cells.append(Cell(where, source, bool(exported), public))
        for path in sorted((self.folder / "tests").glob("*.py")):
            self.cells.append(Cell(str(path.relative_to(self.folder)), path.read_text(), False, test=True))

    @property
    def exported(self):
        return [c for c in self.cells if c.exported]

    @property
    def written(self):
        "What is code to be read: exported cells, and tests."
        return [c for c in self.cells if c.exported or c.test]

    @property
    def modules(self):
        found = (self.folder / "msa_paper").rglob("*.py")
        return sorted(p for p in found if p.name not in ("__init__.py", "_modidx.py"))


def long_lines(house):
    return [
        f"{c.where}: {len(line)} characters"
        for c in house.cells
        for line in c.source.splitlines()
        if len(line) > WIDTH
    ]


def semicolons(house):
    found = []
    for c in house.written:
        tokens = tokenize.generate_tokens(io.StringIO(c.source).readline)
        found += [
            f"{c.where}, line {t.start[0]}" for t in tokens if t.type == tokenize.OP and t.string == ";"
        ]
    return found


def blocks_on_headers(house):
    found = []
    for c in house.written:
        for node in ast.walk(c.tree):
            if isinstance(node, BLOCKS) and node.body[0].lineno == node.lineno:
                found.append(f"{c.where}, line {node.lineno}")
    return found


def named_lambdas(house):
    nodes = [(c, node) for c in house.cells for node in ast.walk(c.tree)]
    return [
        f"{c.where}, line {n.lineno}"
        for c, n in nodes
        if isinstance(n, ast.Assign) and isinstance(n.value, ast.Lambda)
    ]


def large_cells(house):
    found = [c for c in house.exported if len(c.lines) > LONGEST_CELL or len(c.source) > LARGEST_CELL]
    return [f"{c.where}: {len(c.lines)} lines, {len(c.source)} characters" for c in found]


def median_cell(house):
    return statistics.median(len(c.lines) for c in house.exported)


def crowded_cells(house):
    kinds = ast.FunctionDef, ast.ClassDef
    counts = [(c, sum(isinstance(n, kinds) for n in c.tree.body)) for c in house.exported]
    return [f"{c.where}: {n} definitions" for c, n in counts if n >= 5]


def code_lines(path):
    return len(path.read_text().splitlines())


def long_modules(house):
    return [
        f"{p.relative_to(house.folder)}: {code_lines(p)} lines"
        for p in house.modules
        if code_lines(p) > LONGEST_MODULE
    ]


def imported(path, package):
    "The modules of the package that a module imports, wherever the import stands: 'data.catalogue'."
    parts, found = path.relative_to(package).with_suffix("").parts, set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = parts[: len(parts) - node.level]
        elif (node.module or "").split(".")[0] == package.name:
            base, node.module = (), node.module.partition(".")[2] or None
        else:
            continue
        names = [node.module] if node.module else [a.name for a in node.names]
        found |= {".".join((*base, name)) for name in names}
    return found


def layer(module):
    name = module.split(".")[0]
    return LAYERS.index(name) if name in LAYERS else len(LAYERS) - 1


def imports_upward(house):
    package, found = house.folder / "msa_paper", []
    for path in house.modules:
        own = ".".join(path.relative_to(package).with_suffix("").parts)
        found += [
            f"{own} imports {other}" for other in sorted(imported(path, package)) if layer(other) > layer(own)
        ]
    return found


def public_functions(house):
    "Public functions, and public methods of public classes: (cell, what it is called, the definition)."
    for c in (c for c in house.exported if c.public):
        for node in (n for n in c.tree.body if not getattr(n, "name", "_").startswith("_")):
            of_class = node.body if isinstance(node, ast.ClassDef) else [node]
            for f in (f for f in of_class if isinstance(f, ast.FunctionDef)):
                name = f"{node.name}.{f.name}" if f is not node else f.name
                if f.name == "__init__" or not f.name.startswith("_"):
                    yield c, name, f


def is_static(f):
    return any(getattr(d, "id", "") == "staticmethod" for d in f.decorator_list)


def untyped_arguments(house):
    "Arguments of public functions and methods without a type; closures and private names do not count."
    found = []
    for c, name, f in public_functions(house):
        arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        arguments = arguments[1:] if "." in name and not is_static(f) else arguments
        found += [f"{c.where}: {name}({a.arg})" for a in arguments if a.annotation is None and a.arg != "_"]
    return found


def raises_itself(f):
    "Whether a function raises in its own lines: not in a function inside it, and not only what it caught."
    inner = {id(n) for g in ast.walk(f) if isinstance(g, ast.FunctionDef) and g is not f for n in ast.walk(g)}
    return any(isinstance(n, ast.Raise) and n.exc is not None and id(n) not in inner for n in ast.walk(f))


def commands_of(house):
    "Names of functions whose docstrings are pages of help: they end with an error, and raise for nobody."
    added = re.compile(r"^add\(\w+, (?:\w+\.)?(\w+)", re.M)
    return {name for c in house.exported for name in added.findall(c.source)}


def silent_raises(house):
    "Public functions that raise and do not say so."
    helped, found = commands_of(house), []
    for c, name, f in public_functions(house):
        if raises_itself(f) and f.name != "__init__" and f.name not in helped:
            if not re.search(r"\b[Rr]aise", ast.get_docstring(f) or ""):
                found.append(f"{c.where}: {name}")
    return found


def only_children(house):
    "Classes that exactly one class extends, of the same module: one class that was cut in two?"
    found = []
    for path in house.modules:
        classes = {n.name: n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef)}
        bases = [b.id for n in classes.values() for b in n.bases if isinstance(b, ast.Name)]
        where = path.relative_to(house.folder)
        # a kind of error is extended to be told apart where it is caught
        some = (name for name in classes if not name.endswith("Error"))
        found += [f"{where}: {name}" for name in some if bases.count(name) == 1]
    return found


MEASURES = {
    f"lines over {WIDTH} characters": long_lines,
    "semicolons": semicolons,
    "blocks on their header's line": blocks_on_headers,
    "lambdas with a name": named_lambdas,
    f"exported cells over {LONGEST_CELL} lines or {LARGEST_CELL} characters": large_cells,
    "exported cells with five or more definitions": crowded_cells,
    f"modules over {LONGEST_MODULE} lines": long_modules,
    "imports upward": imports_upward,
    "untyped public arguments": untyped_arguments,
    "public functions that raise and do not say so": silent_raises,
    "classes that only one class of their module extends": only_children,
}
MSA_PAPER = [sys.executable, "-c", "import sys; from msa_paper.cli import main; sys.exit(main(sys.argv[1:]))"]
COMMANDS = {
    "import msa_paper": [sys.executable, "-c", "import msa_paper"],
    "python alone": [sys.executable, "-c", "pass"],
    "msa-paper status": [*MSA_PAPER, "status"],
    "one table redrawn": [*MSA_PAPER, "figures", "--page", "table5", "--data", "mosi"],
}


def seconds(command, folder):
    "Wall and CPU seconds of a command, the second time it is run."
    for _ in range(2):
        before, start = time.process_time(), time.perf_counter()
        usage = subprocess.run(
            ["bash", "-c", 'time "$@"', "x", *command], cwd=folder, capture_output=True, text=True
        )
        wall = time.perf_counter() - start
    told = dict(re.findall(r"(user|sys)\s+(\d+m[\d.]+)s", usage.stderr))
    cpu = sum(60 * float(t.split("m")[0]) + float(t.split("m")[1]) for t in told.values())
    return wall, cpu


def main(arguments):
    house = House(Path(next((a for a in arguments if not a.startswith("-")), PROJECT)).resolve())
    for name, measure in MEASURES.items():
        found = measure(house)
        print(f"{name}: {len(found)}")
        if "--list" in arguments:
            print(*(f"  {line}" for line in found), sep="\n")
    print(f"lines of an exported cell, median: {median_cell(house):g}")
    total = sum(len(c.lines) for c in house.exported)
    print(f"exported: {total} lines in {len(house.exported)} cells, {len(house.modules)} modules")
    if "--times" in arguments:
        for name, command in COMMANDS.items():
            wall, cpu = seconds(command, house.folder)
            print(f"{name}: {wall:.2f} s, {cpu:.2f} s of CPU")


if __name__ == "__main__":
    main(sys.argv[1:])
