"""The rules of the house: who may import whom, how light an import is, what files may hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "cellfuse"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SEAM = "model/base/seam.py"
#: scvi-tools itself, as one of the methods that a benchmark compares.
BASELINE = "bench/_scvi.py"
MAX_LINES = 600

#: Layers that each layer may import, itself aside; the first are below everything.
LAYERS = {
    "_errors": set(),
    "_counts": set(),
    "_files": set(),
    "_memory": set(),
    "_labels": set(),
    "_decoupler": set(),
    "_mudata": {"_files"},
    "_embedding_store": {"_files"},
    "_renamed": {"_errors"},
    "_settings": {"_errors"},
    "_console": {"_settings"},
    "_access": {"_errors", "_labels"},
    "_provenance": {"_access", "_errors"},
    "kernels": {"_errors"},
    "_batches": {"_access", "_errors", "kernels"},
    "nn": {"_errors", "kernels"},
    "data": {"_access", "_provenance", "_errors", "_memory", "kernels", "nn"},
    "model": {
        "_memory",
        "_mudata",
        "_access",
        "_provenance",
        "_batches",
        "_console",
        "_errors",
        "_renamed",
        "_files",
        "_embedding_store",
        "kernels",
        "nn",
        "data",
    },
    "pp": {
        "_embedding_store",
        "_access",
        "_provenance",
        "_batches",
        "_errors",
        "_renamed",
        "_files",
        "kernels",
        "nn",
        "data",
    },
    "tl": {
        "_decoupler",
        "_mudata",
        "_access",
        "_provenance",
        "_counts",
        "_errors",
        "_renamed",
        "kernels",
        "nn",
        "data",
        "pp",
    },
    "pl": {"_access", "_errors", "_renamed"},
    "io": {"_mudata", "_access", "_errors", "_renamed", "_files", "kernels", "data"},
    "datasets": {"_mudata", "_access", "_errors", "_files", "_renamed", "kernels", "io"},
}
LAYERS["bench"] = set(LAYERS) | {"__init__"}
LAYERS["cli"] = LAYERS["bench"] | {"bench"}
LAYERS["__init__"] = set(LAYERS)
LAYERS["__main__"] = {"cli"}

ANNOTATED = {"anndata", "mudata", "scanpy", "scvi"}
#: Third-party packages that a layer must not know.
FORBIDDEN = {
    "kernels": ANNOTATED | {"lightning", "matplotlib", "pandas", "timm"},
    "nn": ANNOTATED | {"lightning", "matplotlib", "pandas"},
    "data": {"scanpy", "scvi", "matplotlib"},
    "pp": {"scvi", "matplotlib"},
    "tl": {"scvi", "matplotlib"},
    "pl": {"scvi", "torch", "lightning"},
    "_access": {"scvi", "scanpy", "torch", "matplotlib"},
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Full names of all modules that a file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_known_layer(name: str) -> bool:
    return name in LAYERS


def forbidden_imports(layer: str, names: set[str]) -> set[str]:
    """Those of `names` that a file of `layer` must not import."""
    bad = set()
    for name in names - {"cellfuse.__version__"}:
        top, *rest = name.split(".")
        if top == "cellfuse":
            target = rest[0] if rest and is_known_layer(rest[0]) else "__init__"
            if target != layer and target not in LAYERS[layer]:
                bad.add(name)
        elif top in FORBIDDEN.get(layer, set()):
            bad.add(name)
    return bad


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_downwards(path):
    layer = layer_of(path)
    assert is_known_layer(layer), f"{layer!r} is no layer of the house"
    assert forbidden_imports(layer, imported(ast.parse(path.read_text()))) == set()


@pytest.mark.parametrize(
    ("layer", "line"),
    [
        ("kernels", "import anndata"),
        ("kernels", "from cellfuse._access import modalities"),
        ("nn", "from cellfuse.data import Stream"),
        ("data", "from cellfuse.model import PETRI"),
        ("data", "from cellfuse import PETRI"),
        ("tl", "import cellfuse.pl"),
        ("pl", "from cellfuse import model"),
        ("pl", "def draw():\n    from cellfuse.tl import aggregate"),
        ("pp", "from scvi.data import AnnDataManager"),
        ("_errors", "from cellfuse._access import modalities"),
    ],
)
def test_an_upward_import_is_found(layer, line):
    assert forbidden_imports(layer, imported(ast.parse(line)))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_scvi_enters_through_its_seam_only(path):
    names = {n for n in imported(ast.parse(path.read_text())) if n.split(".")[0] == "scvi"}
    assert not names or name_of(path) in (SEAM, BASELINE)
    private = {n for n in names if any(part.startswith("_") for part in n.split("."))}
    assert private == set()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


#: Calls that change the process for everybody.
SETTERS = {
    "filterwarnings",
    "simplefilter",
    "set_options",
    "set_option",
    "seterr",
    "np.random.seed",
    "manual_seed",
    "set_default_dtype",
    "set_num_threads",
    "set_figure_params",
}
#: Context managers that put back what is changed inside them.
RESTORING = {"catch_warnings", "fork_rng", "set_options"}


def global_changes(tree: ast.AST) -> set[str]:
    """Calls of `SETTERS`, other than inside (or as) a context manager that undoes them."""
    undone: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.With):
            managers = {
                ast.unparse(item.context_expr.func).split(".")[-1]
                for item in node.items
                if isinstance(item.context_expr, ast.Call)
            }
            if managers & RESTORING:
                undone |= {id(inner) for inner in ast.walk(node)}
    calls = {
        ast.unparse(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and id(node) not in undone
    }
    # A method of a fresh object, as in `torch.Generator().manual_seed(0)`, changes it alone.
    calls = {call for call in calls if "(" not in call and not call.startswith("self.")}
    return {call for call in calls if call in SETTERS or call.split(".")[-1] in SETTERS}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_changes_warnings_or_options(path):
    assert global_changes(ast.parse(path.read_text())) == set()


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("warnings.filterwarnings('ignore')", {"warnings.filterwarnings"}),
        ("torch.manual_seed(0)", {"torch.manual_seed"}),
        ("with torch.random.fork_rng():\n    torch.manual_seed(0)", set()),
        ("with mudata.set_options(pull_on_update=False):\n    f()", set()),
        ("torch.Generator().manual_seed(0)", set()),
        ("with warnings.catch_warnings():\n    warnings.simplefilter('ignore')", set()),
    ],
)
def test_a_global_change_is_found_unless_it_is_undone(code, found):
    assert global_changes(ast.parse(code)) == found


# -- what is in the repository --------------------------------------------------------------------


def tracked_files() -> list[Path]:
    git = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if git.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in git.stdout.split("\0") if name]


#: Written in pieces, so that this file does not hold what it forbids.
UNWANTED = re.compile(
    r"pypi" + r"\.org|pythonhost" + r"ed" + r"\.org|download\.pytorch" + r"\.org|registry\.npmjs"
    r"|--(?:extra-)?index" + r"-url|--find" + r"-links"
    r"|(?<![\w.$}])/(?:home|root|Users|work|tmp)" + r"/\w"
)


def test_no_tracked_file_names_a_registry_or_an_absolute_path():
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # a picture, removed and not yet committed, or a link to a folder
        found += [
            f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, hit.start()) + 1}: {hit.group()}"
            for hit in UNWANTED.finditer(text)
        ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["see /home/" + "ann/data", "--index" + "-url x", "https://pypi" + ".org/simple"]
)
def test_an_unwanted_text_is_found(text):
    assert UNWANTED.search(text)


@pytest.mark.parametrize("text", ["../shared/data", "docs/tmp/x", "$HOME/work/x", "{root}/work/a"])
def test_a_relative_path_is_allowed(text):
    assert not UNWANTED.search(text)


# -- how light an import is -----------------------------------------------------------------------


def modules_after(statement: str) -> set[str]:
    """Top-level packages that are loaded after `statement`, in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


HEAVY = {"scvi", "torch", "lightning", "timm", "rdkit"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import cellfuse", HEAVY | {"scanpy", "sklearn", "statsmodels", "matplotlib.pyplot"}),
        ("import cellfuse; cellfuse.pp", HEAVY),
        ("import cellfuse; cellfuse.tl", HEAVY),
        ("import cellfuse; cellfuse.pl", {"scvi", "lightning"}),
        ("import cellfuse; cellfuse.datasets", HEAVY),
        ("import cellfuse; cellfuse.data", {"scvi", "scanpy"}),
        ("import cellfuse._access", HEAVY | {"scanpy"}),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement, absent):
    assert modules_after(statement) & absent == set()


def test_the_package_adds_nothing_to_anndata_and_mudata():
    base = modules_after("import anndata, mudata")
    assert modules_after("import anndata, mudata, cellfuse") - base == {"cellfuse"}


def test_importing_changes_no_warning_filter():
    code = (
        "import anndata, mudata, matplotlib, scanpy, warnings\n"
        "before = list(warnings.filters)\n"
        "import cellfuse\n"
        "cellfuse.pp, cellfuse.tl, cellfuse.pl, cellfuse.datasets\n"
        "ours = [f for f in warnings.filters if f not in before]\n"
        "print(ours)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
