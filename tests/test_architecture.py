"""The shape of the package, read from its syntax trees.

Each rule is a function from source text to a list of faults, and is itself tested on a source that breaks it.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plusx"

# Imports point only to a lower number; parts with the same number never import each other.
LAYERS = {
    "errors": 0,
    "memory": 0,
    "text": 0,
    "threads": 0,
    "pth_import": 0,  # runs alone, and trusts no folder of the user's
    "config": 1,
    "recipes": 2,
    "models": 2,
    "data": 2,
    "engine": 3,
    "modelfile": 4,
    "pth": 4,
    "weights": 5,
    "evaluation": 5,
    "prediction": 5,
    "export": 5,
    "serve": 6,
    "report": 6,
    "claim": 6,
    "initial": 6,
    "plan": 7,
    "result": 8,
    "prepare": 8,
    "doctor": 8,
    "finish": 9,
    "run": 10,
    "studies": 11,
    "demo": 11,
    "cli": 12,
    "": 13,  # the package itself: re-exports only
    "__main__": 13,
}
# Part -> modules, or beginnings of names of modules, that it may not import although they are lower.
FORBIDDEN = {
    "engine": ("models", "data", "recipes"),
    "modelfile": ("recipes", "data"),
    "serve": ("recipes", "engine.trainer", "engine.step", "engine.optim", "engine.schedule", "engine.checkpoint"),
    "report": ("recipes", "engine.trainer", "engine.step", "engine.optim", "engine.schedule", "engine.checkpoint"),
    "pth": ("recipes", "models"),
    "weights": ("recipes", "models"),
}
# Exceptions to FORBIDDEN, named in the design.
ALLOWED = {"modelfile": ("data.transforms", "data.folder.find_images")}
IMPORTER = "pth_import"  # runs confined in a process of its own: the one place of torch.load, with weights_only=True
FUNCTION_LINES = {"train_step": 40, "fit": 120}
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HOPS = [("cli", "train", "train"), ("run", "train", "fit"), ("engine", "fit", "train_step")]


def sources() -> dict[str, str]:
    """Module name below the package -> its source: `data.loader`, `cli`, and `` for the package itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").removesuffix(".")] = path.read_text()
    return found


def is_package(module: str) -> bool:
    """Whether the module is a folder with an `__init__.py`."""
    return (PACKAGE / module.replace(".", "/")).is_dir()


def imported(module: str, source: str, package: bool) -> set[str]:
    """Modules of plusx, by their names below it, that a source imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = ["plusx", *filter(None, module.split("."))]
                parts = parts[: len(parts) - node.level + package]
                base = ".".join([*parts, *filter(None, [node.module])])
            # `from plusx import run` and `from plusx.data import loader` may each import a module.
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return {name.removeprefix("plusx").removeprefix(".") for name in names if name.split(".")[0] == "plusx"}


def below(name: str, parents: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the parents or stands below one."""
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def import_faults(module: str, source: str, package: bool = False) -> list[str]:
    """Imports that point up, sideways, or to what a part must not know."""
    part = module.split(".")[0]
    if part not in LAYERS:
        return [f"{module}: no place in the layers"]
    faults = []
    for name in sorted(imported(module, source, package)):
        target = name.split(".")[0]
        if target == part and part:
            continue
        if target not in LAYERS:
            faults.append(f"{module} imports {name}: not a part of the package, or through plusx itself")
        elif LAYERS[target] >= LAYERS[part]:
            faults.append(f"{module} imports {name}: not below it")
        elif below(name, FORBIDDEN.get(part, ())) and not below(name, ALLOWED.get(part, ())):
            faults.append(f"{module} imports {name}: forbidden")
    return faults


def size_faults(module: str, source: str) -> list[str]:
    """Functions over their number of lines."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines, limit = (node.end_lineno or 0) - node.lineno + 1, FUNCTION_LINES.get(node.name, 80)
            if lines > limit:
                faults.append(f"{module}.{node.name}: {lines} lines, at most {limit}")
    return faults


def code_lines(source: str) -> int:
    """Lines with code on them: without docstrings, comments and blank lines."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    words: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, owners) and ast.get_docstring(node) is not None:
            words |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {n for t in tokens if t.type not in silent for n in range(t.start[0], t.end[0] + 1)}
    return len(code - words)


def name_faults(module: str) -> list[str]:
    """Drawers."""
    return [f"{module}: a drawer" for part in module.split(".") if part in ("utils", "common", "helpers", "misc")]


def print_faults(module: str, source: str) -> list[str]:
    """Calls of print outside the command line and the log."""
    if module in ("cli", "engine.log"):
        return []
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    return [f"{module}:{n.lineno}: print" for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]


def unfinished_faults(module: str, source: str) -> list[str]:
    """Lines that say something is still to do."""
    pattern = re.compile(r"\b(TODO|FIXME)\b")
    return [f"{module}:{n}: {line.strip()}" for n, line in enumerate(source.splitlines(), 1) if pattern.search(line)]


def unsafe_faults(module: str, source: str) -> list[str]:
    """Ways to run code from a file: pickle and its kin, torch.load, yaml.load, eval, arguments that allow it."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        found = ""
        if isinstance(node, ast.Import):
            found = next((a.name for a in node.names if a.name.split(".")[0] in BANNED_MODULES), "")
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            banned = (node.module or "").split(".")[0] in BANNED_MODULES or names & {"torch.load", "yaml.load"}
            found = node.module or "" if banned else ""
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found = called if called in ("torch.load", "yaml.load", "eval", "exec", "builtins.eval") else ""
            if found == "torch.load" and module == IMPORTER and "weights_only=True" in map(ast.unparse, node.keywords):
                continue
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            asked = (node.arg, node.value.value)
            found = f"{node.arg}={asked[1]}" if asked in (("weights_only", False), ("allow_pickle", True)) else ""
        elif isinstance(node, ast.Constant) and node.value in BANNED_MODULES:  # import_module("pickle")
            found = repr(node.value)
        if found:
            faults.append(f"{module}:{getattr(node, 'lineno', 0)}: {found}")
    return faults


def calls(source: str, function: str) -> set[str]:
    """Last names of everything that a function, or a method, of that name calls; `import … as` is seen through."""
    tree = ast.parse(source)
    aliases = [a for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names]
    names = {a.asname: a.name for a in aliases if a.asname}
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function]
    called = [n.func for node in nodes for n in ast.walk(node) if isinstance(n, ast.Call)]
    last = [ast.unparse(f).split(".")[-1] for f in called]
    return {names.get(name, name) for name in last}


ALL = sources()


def part_sources(part: str) -> list[str]:
    """The sources of a module, or of all modules of a package."""
    return [source for name, source in ALL.items() if below(name, (part,))]


@pytest.mark.parametrize("module", ALL)
def test_module_keeps_the_rules(module: str) -> None:
    source = ALL[module]
    assert import_faults(module, source, is_package(module)) == []
    assert size_faults(module, source) == []
    assert name_faults(module) == []
    assert print_faults(module, source) == []
    assert unfinished_faults(module, source) == []
    assert unsafe_faults(module, source) == []


@pytest.mark.parametrize(
    ("module", "source", "package"),
    [
        ("config", "import plusx.data", False),
        ("models.resnet", "from plusx.data import loader", False),
        ("data.loader", "from ..recipes import small", False),
        ("recipes", "from . import models\nfrom .. import models", True),
        ("engine.trainer", "def f():\n    from plusx.models import create_model", False),
        ("engine", "from ..data import loader", True),
        ("modelfile", "from plusx.data.loader import Batch", False),
        ("modelfile", "from plusx.recipes import small", False),
        ("evaluation", "from plusx.prediction import predict", False),
        ("report", "from plusx.engine.trainer import fit", False),
        ("serve.app", "from plusx.run import train", False),
        ("run", "from plusx import train", False),
        ("run", "import plusx", False),
        ("drawer", "import math", False),
    ],
)
def test_import_rule_fails_on(module: str, source: str, package: bool) -> None:
    assert import_faults(module, source, package)


@pytest.mark.parametrize(
    ("module", "source", "package"),
    [
        ("data.loader", "import torch\nfrom plusx.config import DataConfig\nfrom .decode import decode", False),
        ("data", "from .loader import Batch\nfrom . import decode", True),
        ("modelfile", "from plusx.data.transforms import Preprocess\nfrom plusx.data.folder import find_images", False),
        ("cli", "def train():\n    from plusx import run", False),
        ("", "from plusx.run import train", True),
    ],
)
def test_import_rule_passes(module: str, source: str, package: bool) -> None:
    assert import_faults(module, source, package) == []


def test_size_rule_fails_over_the_limit() -> None:
    body = "\n    pass"
    assert size_faults("m", "def train_step():" + body * 39) == []
    assert size_faults("m", "def train_step():" + body * 40)
    assert size_faults("m", "def fit():" + body * 119) == []
    assert size_faults("m", "def fit():" + body * 120)
    assert size_faults("m", "class A:\n  def any(self):" + body * 80)


def test_small_rules_fail_on_bad_sources() -> None:
    assert name_faults("data.utils")
    assert print_faults("data.loader", "print(1)")
    assert not print_faults("cli", "print(1)")
    assert unfinished_faults("m", "x = 1  # " + "TODO: more")
    assert unfinished_faults("m", '"""' + "FIXME" + '"""')


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x', weights_only=True)",
        "from torch import load",
        "f(weights_only=False)",
        "eval('1')",
        "yaml.load(f)",
        "np.load(f, allow_pickle=True)",
        "importlib.import_module('pickle')",
    ],
)
def test_unsafe_rule_fails_on(source: str) -> None:
    assert unsafe_faults("m", source)


def test_unsafe_rule_allows_one_confined_import() -> None:
    assert not unsafe_faults(IMPORTER, "torch.load(f, weights_only=True)")
    assert unsafe_faults(IMPORTER, "torch.load(f)")
    assert unsafe_faults(IMPORTER, "torch.load(f, weights_only=False)")
    assert unsafe_faults("pth", "torch.load(f, weights_only=True)")
    assert import_faults(IMPORTER, "from plusx import errors")


def test_unsafe_rule_allows_safe_calls() -> None:
    assert unsafe_faults("m", "model.eval()\nnp.load(f, allow_pickle=False)\nsafetensors.torch.load(b)") == []


def test_network_file_fits_its_budget() -> None:
    source = ALL["models.resnet"]
    assert len(source.splitlines()) <= 350
    assert "http" not in source


def test_package_fits_its_budget() -> None:
    pages = sum(len(p.read_text().splitlines()) for p in PACKAGE.rglob("*") if p.suffix in (".html", ".css", ".js"))
    total = sum(map(code_lines, ALL.values())) + pages
    assert total <= 10_000, f"{total:,} lines of code, at most 10,000 (docs/design.md): shorten something else first"


def test_code_is_counted_without_words_about_it() -> None:
    assert (
        code_lines(
            '"""Words."""\n\nx = 1  # why\n# more\ndef f():\n    """Words\n    and more."""\n    return [\n    1]\n'
        )
        == 4
    )


@pytest.mark.parametrize(("part", "function", "callee"), HOPS)
def test_three_hops_from_the_command_line_to_the_step(part: str, function: str, callee: str) -> None:
    assert any(callee in calls(source, function) for source in part_sources(part))


def test_hop_rule_fails_without_the_call() -> None:
    assert "fit" in calls("def train():\n    trainer.fit()", "train")
    assert "fit" in calls("from a import fit as go\ndef train():\n    go()", "train")
    assert "fit" not in calls("def train():\n    pass\ndef other():\n    fit()", "train")


def test_public_names_are_few_and_import_no_torch() -> None:
    code = "import sys, plusx; print(len(plusx.__all__), 'torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    count, torch_loaded, numpy_loaded = out.stdout.split()
    assert int(count) <= 20
    assert (torch_loaded, numpy_loaded) == ("False", "False")


def test_public_names_are_functions_and_classes_whatever_was_imported() -> None:
    # Python binds a submodule to its package when it is imported: `plusx.evaluate` must stay the function.
    code = "import plusx, plusx.run, plusx.prediction; print([type(getattr(plusx, n)).__name__ for n in plusx.__all__])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert set(ast.literal_eval(out.stdout)) <= {"function", "type", "ABCMeta", "str"}
