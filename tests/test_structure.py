"""The rules of the house, read off the source: floors, no circles, one broadcaster, keyed randomness, nothing unsafe.

The first half is the checker, the second half lets it loose on src/scorefield, and the third plants one fault
of each kind in a small tree of its own and sees that it is found.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "scorefield"
PACKAGE = "scorefield"

# Lowest floor first. A room may use the floors below it and, without a circle, its own.
FLOORS = (
    ("errors",),
    (
        "randomness",
        "storage",
        *("noise", "mixing"),
        "discrete",
        "betas",
        "noise_range",
        "networks",
        "calculus",
        "ode",
        *("diagnostics", "chunks", "polar", "moments", "quadrature", "tableaus", "blocks", "shrinkage"),
    ),
    ("parametrization", "whitening"),
    ("model", "bounded", "energies", "variational"),
    ("exact", "objectives", "samplers", "guidance", "likelihood"),
    ("codecs", "data", "training"),
    (
        *("recipes", "overrides", "sizes", "resolve", "features", "progress", "build", "card", "drawing", "trajectory"),
        *("weights", "scoring", "given", "filling", "parts", "bundle", "finish"),
    ),
    ("api",),
    ("estimator", "inspection", "unfinished", "evaluation", "report", "explorer", "interop", "cli"),
    ("", "__main__"),  # the public face, scorefield/__init__.py
)
STRANGERS = {"exact", "objectives", "samplers", "guidance", "likelihood"}  # these never import each other
HERMITS = {"networks": {"errors", "randomness"}}  # networks know nothing of diffusion
LONGEST = 400


# -- the checker ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """One parsed file; `name` is dotted and relative to the package, "" for the package itself."""

    name: str
    path: str
    text: str
    tree: ast.Module
    is_package: bool

    @property
    def room(self) -> str:
        """The top-level module or folder that it belongs to."""
        return self.name.split(".")[0]

    def fault(self, line: int, what: str) -> str:
        """A fault at a line of this file, in words."""
        return f"{self.path}:{line}: {what}"


def read_tree(root: Path) -> dict[str, Module]:
    """Every Python file under root, keyed by its dotted name."""
    modules = {}
    for file in sorted(root.rglob("*.py")):
        parts = list(file.relative_to(root).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        text = file.read_text(encoding="utf-8")
        modules[name] = Module(name, str(file.relative_to(root)), text, ast.parse(text), is_package)
    return modules


def imported(module: Module, names: set[str]) -> Iterator[tuple[int, str]]:
    """(line, name) of every module of the package that this one imports, at any depth of its code.

    Imports inside functions and under TYPE_CHECKING count, and so does importlib.import_module with a plain string.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield node.lineno, alias.name.removeprefix(PACKAGE).removeprefix(".")
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            if base is not None:
                for alias in node.names:
                    inner = f"{base}.{alias.name}" if base else alias.name
                    yield node.lineno, inner if inner in names else base
        elif isinstance(node, ast.Call) and _called(node) in {"importlib.import_module", "import_module", "__import__"}:
            match node.args:
                case [ast.Constant(value=str(target)), *_] if target.split(".")[0] == PACKAGE:
                    yield node.lineno, target.removeprefix(PACKAGE).removeprefix(".")


def _base(module: Module, node: ast.ImportFrom) -> str | None:
    """What a `from … import` names, relative to the package; None for other packages."""
    if not node.level:
        name = node.module or ""
        return name.removeprefix(PACKAGE).removeprefix(".") if name.split(".")[0] == PACKAGE else None
    here = module.name.split(".") if module.name else []
    above = node.level - (1 if module.is_package else 0)
    return ".".join([*here[: len(here) - above], *([node.module] if node.module else [])])


def _called(node: ast.AST) -> str:
    """The dotted name of what is called or read, as written; "" where it is no plain name."""
    if isinstance(node, ast.Call):
        return _called(node.func)
    if isinstance(node, ast.Attribute):
        front = _called(node.value)
        return f"{front}.{node.attr}" if front else f".{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def arrows(modules: dict[str, Module]) -> list[str]:
    """Imports that go up, sideways where that is forbidden, or nowhere."""
    floor = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
    faults = []
    for module in modules.values():
        if module.room not in floor:
            faults.append(module.fault(1, f"{module.room} stands on no floor: give it one in FLOORS"))
            continue
        for line, target in imported(module, set(modules)):
            room = target.split(".")[0]
            if room == module.room:
                continue
            if room not in floor:
                faults.append(module.fault(line, f"imports {room}, which stands on no floor"))
            elif floor[room] > floor[module.room]:
                faults.append(module.fault(line, f"{module.room} imports {room or PACKAGE} from a floor above"))
            elif module.room in STRANGERS and room in STRANGERS:
                faults.append(module.fault(line, f"{module.room} and {room} never import each other"))
            elif room not in HERMITS.get(module.room, {room}):
                faults.append(module.fault(line, f"{module.room} imports {room}, of which it should know nothing"))
    return faults


def circles(modules: dict[str, Module]) -> list[str]:
    """Circles of imports, between files and between rooms."""
    names = set(modules)
    files = {name: {target for _, target in imported(module, names)} for name, module in modules.items()}
    rooms: dict[str, set[str]] = {}
    for name, targets in files.items():
        here = name.split(".")[0]
        rooms.setdefault(here, set()).update({t.split(".")[0] for t in targets} - {here})
    return [
        f"a circle of {kind}: {' → '.join(c)}" for kind, g in (("files", files), ("rooms", rooms)) for c in _loops(g)
    ]


def _loops(graph: dict[str, set[str]]) -> list[list[str]]:
    """One loop for each back edge of a depth-first walk."""
    loops: list[list[str]] = []
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> None:
        if node in path:
            loops.append([name or PACKAGE for name in [*path[path.index(node) :], node]])
            return
        if node in done:
            return
        for following in sorted(graph.get(node, ())):
            walk(following, [*path, node])
        done.add(node)

    for start in sorted(graph):
        walk(start, [])
    return loops


def words(modules: dict[str, Module]) -> list[str]:
    """Missing docstrings, first lines that are not one sentence, and files that are too long."""
    faults = []
    for module in modules.values():
        lines = module.text.count("\n")
        if lines > LONGEST:
            faults.append(module.fault(lines, f"{lines} lines, at most {LONGEST}"))
        first = (ast.get_docstring(module.tree) or "").split("\n")[0].strip()
        if not first:
            faults.append(module.fault(1, "no docstring"))
        elif not first.endswith((".", "?", "!")) or re.search(r"[.?!] +[A-Z]", first):
            faults.append(module.fault(1, f"the first line should be one whole sentence, not {first!r}"))
        for node in module.tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not node.name.startswith("_") and not ast.get_docstring(node):
                faults.append(module.fault(node.lineno, f"{node.name} has no docstring"))
    return faults


def broadcasts(modules: dict[str, Module]) -> list[str]:
    """`x[:, None, None…]` outside noise.py, where `Schedule.at` does that for all."""
    faults = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            if module.name != "noise" and isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                match node.slice.elts:
                    case [ast.Slice(lower=None, upper=None), ast.Constant(value=None), ast.Constant(value=None), *_]:
                        faults.append(module.fault(node.lineno, "broadcasts by hand: use Schedule.at(t, like=x)"))
    return faults


_TORCH_DRAWS = re.compile(
    r"torch\.(rand|randn|randint|randperm|rand_like|randn_like|randint_like|normal|bernoulli|multinomial|poisson)"
    r"|\.(normal_|uniform_|random_|bernoulli_|exponential_|log_normal_|cauchy_|geometric_)"
    r"|.*\b(random_split|RandomSampler|[fF]unctional\.(alpha_|feature_)?dropout[123]?d?|F\.(alpha_|feature_)?dropout[123]?d?)"
    r"|.*\b(Alpha|FeatureAlpha)?Dropout[123]?d?"
)
_TORCH_SEEDS = re.compile(
    r"torch\.(cuda\.|random\.|mps\.)?(manual_seed|manual_seed_all|seed|seed_all|set_rng_state|fork_rng)"
)
_NUMPY_KEYED = {"default_rng", "Generator", "SeedSequence", "Philox", "PCG64", "BitGenerator"}


def chances(modules: dict[str, Module]) -> list[str]:
    """Draws from a global generator, outside randomness.py and the first values of a network's parameters."""
    faults = []
    for module in modules.values():
        if module.name == "randomness":
            continue
        may_seed = module.name == "build"  # it seeds torch, in a fork, for a network's first parameters
        beginnings = _initialisers(module) if module.room == "networks" else set()
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                heads = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                if not getattr(node, "level", 0) and {"random", "numpy.random"} & set(heads):
                    faults.append(module.fault(node.lineno, f"imports {heads[0]}"))
            if not isinstance(node, ast.Call):
                continue
            name, keywords = _dotted(node), {keyword.arg for keyword in node.keywords}
            first_value = module.room == "networks" and re.search(r"\binit\.\w+_$", _called(node))
            numpy = re.fullmatch(r"(?:np|numpy)\.random\.(\w+)", name)
            if numpy and (numpy[1] not in _NUMPY_KEYED or not (node.args or node.keywords)):
                faults.append(module.fault(node.lineno, f"{name} draws from a global or unseeded generator"))
            elif _TORCH_SEEDS.fullmatch(name) and not may_seed:
                faults.append(module.fault(node.lineno, f"{name} touches the global generator"))
            elif _TORCH_DRAWS.fullmatch(name) and not (
                "generator" in keywords or first_value or node.lineno in beginnings
            ):
                faults.append(module.fault(node.lineno, f"{name} draws from the global generator"))
    return faults


def _dotted(node: ast.Call) -> str:
    """The called name; of a method of some expression only `.method`, so that `torch.empty(3).normal_()` is seen."""
    name = _called(node)
    return f".{name.rsplit('.', 1)[1]}" if name.endswith("_") and "." in name else name


def _initialisers(module: Module) -> set[int]:
    """Lines of functions that give parameters their first values."""
    found: set[int] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef) and re.match(r"__init__$|reset_parameters$|_?init", node.name):
            found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


_UNSAFE_IMPORTS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
_UNSAFE_CALLS = {
    *("torch.load", "torch.save", "eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.load_all"),
    *("yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle"),
}


def dangers(modules: dict[str, Module]) -> list[str]:
    """Pickle in any dress, evaluated text and shells."""
    faults = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Import | ast.ImportFrom | ast.Call):
                continue
            found = ""
            if isinstance(node, ast.Import):
                found = next((a.name for a in node.names if a.name.split(".")[0] in _UNSAFE_IMPORTS), "")
            elif isinstance(node, ast.ImportFrom) and not node.level:
                written = {f"{node.module}.{alias.name}" for alias in node.names}
                unsafe = (node.module or "").split(".")[0] in _UNSAFE_IMPORTS
                found = (node.module or "") if unsafe else next(iter(written & _UNSAFE_CALLS), "")
            elif isinstance(node, ast.Call):
                found = _called(node) if _called(node) in _UNSAFE_CALLS or _called(node).endswith(".to_pickle") else ""
                for keyword in node.keywords:
                    if keyword.arg in {"allow_pickle", "shell"}:
                        off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                        found = found if off else f"{keyword.arg}=…"
            if found:
                faults.append(module.fault(node.lineno, f"{found} is not used here"))
    return faults


def catch_alls(modules: dict[str, Module]) -> list[str]:
    """Parameters that swallow any keyword."""
    return [
        module.fault(node.lineno, f"**{node.args.kwarg.arg} swallows any keyword")
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and node.args.kwarg
    ]


RULES: dict[str, Callable[[dict[str, Module]], list[str]]] = {
    rule.__name__: rule for rule in (arrows, circles, words, broadcasts, chances, dangers, catch_alls)
}


# -- the house itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_the_source_keeps_the_rule(rule: str) -> None:
    faults = RULES[rule](read_tree(SOURCE))
    assert not faults, "\n" + "\n".join(faults)


def test_the_source_is_there_and_its_arrows_are_seen() -> None:
    # Without this the rules above would hold for an empty folder too.
    modules = read_tree(SOURCE)
    assert {"", "errors", "noise", "model"} <= set(modules)
    assert "noise" in {target for _, target in imported(modules["model"], set(modules))}


# -- planted faults ---------------------------------------------------------------------------------------------------


def plant(root: Path, files: dict[str, str]) -> dict[str, Module]:
    """A tree of files, each with a docstring before what is given."""
    for name, code in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""One idea."""\n{code}\n', encoding="utf-8")
    return read_tree(root)


UPWARD = {
    "absolute": "from scorefield.model import Denoiser",
    "plain import": "import scorefield.model",
    "relative": "from .model import Denoiser",
    "relative module": "from . import model",
    "of a submodule": "from scorefield.samplers.loop import sample",
    "of the face": "import scorefield as sf",
    "of a name of the face": "from scorefield import fit",
    "inside a function": "def f():\n    from scorefield.model import Denoiser",
    "for types only": "if TYPE_CHECKING:\n    from scorefield.model import Denoiser",
    "by name": "model = importlib.import_module('scorefield.model')",
}


@pytest.mark.parametrize("code", UPWARD.values(), ids=UPWARD)
def test_an_upward_import_is_found(tmp_path: Path, code: str) -> None:
    others = {"__init__.py": "", "model.py": "", "samplers/__init__.py": "", "samplers/loop.py": ""}
    modules = plant(tmp_path, {**others, "noise.py": code})
    (fault,) = arrows(modules)
    assert fault.startswith("noise.py:")
    assert "from a floor above" in fault


def test_an_upward_import_from_deep_inside_a_room_is_found(tmp_path: Path) -> None:
    modules = plant(tmp_path, {"data/readers/csv.py": "from ...api import fit", "api.py": "", "data/__init__.py": ""})
    assert arrows(modules) == ["data/readers/csv.py:2: data imports api from a floor above"]


def test_errors_stand_at_the_very_bottom(tmp_path: Path) -> None:
    assert arrows(plant(tmp_path, {"errors.py": "from scorefield import noise", "noise.py": ""}))


@pytest.mark.parametrize("other", sorted(STRANGERS - {"samplers"}))
def test_strangers_that_meet_are_found(tmp_path: Path, other: str) -> None:
    modules = plant(tmp_path, {"samplers/loop.py": f"from scorefield import {other}", f"{other}/__init__.py": ""})
    assert arrows(modules) == [f"samplers/loop.py:2: samplers and {other} never import each other"]


def test_a_network_that_knows_of_diffusion_is_found(tmp_path: Path) -> None:
    assert arrows(plant(tmp_path, {"networks/mlp.py": "from scorefield.noise import VP", "noise.py": ""}))
    assert not arrows(plant(tmp_path, {"networks/mlp.py": "from scorefield.errors import E", "errors.py": ""}))


def test_a_room_without_a_floor_is_found(tmp_path: Path) -> None:
    assert arrows(plant(tmp_path, {"attic.py": ""})) == ["attic.py:1: attic stands on no floor: give it one in FLOORS"]


def test_downward_and_outward_imports_pass(tmp_path: Path) -> None:
    code = "import torch\nfrom scorefield import noise\nfrom scorefield.data import csv\nfrom ..data import toys"
    files = {"cli/app.py": code, "noise.py": "import math", "data/csv.py": "from . import toys", "data/toys.py": ""}
    modules = plant(
        tmp_path, {**files, "data/__init__.py": "from .csv import read", "__init__.py": "from .cli import app"}
    )
    assert not arrows(modules)
    assert not circles(modules)


def test_a_circle_of_files_is_found(tmp_path: Path) -> None:
    files = {
        "noise.py": "from . import ode",
        "ode.py": "def f():\n    from .calculus import x",
        "calculus.py": "import scorefield.noise",
    }
    assert circles(plant(tmp_path, files))[0] == "a circle of files: calculus → noise → ode → calculus"


def test_a_circle_of_rooms_without_a_circle_of_files_is_found(tmp_path: Path) -> None:
    files = {"data/a.py": "from scorefield.codecs.b import x", "codecs/b.py": ""}
    files |= {"codecs/c.py": "from scorefield.data.d import x", "data/d.py": ""}
    assert circles(plant(tmp_path, files)) == ["a circle of rooms: codecs → data → codecs"]


def test_a_room_that_imports_its_own_face_is_found(tmp_path: Path) -> None:
    modules = plant(
        tmp_path, {"data/__init__.py": "from .csv import read", "data/csv.py": "from scorefield.data import X"}
    )
    assert circles(modules) == ["a circle of files: data → data.csv → data"]


PLANTED = [
    ("words", "ode.py", "def public():\n    return 1"),
    ("words", "ode.py", "class Public:\n    x = 1"),
    ("words", "ode.py", "\n" * LONGEST),
    ("broadcasts", "model.py", "y = x[:, None, None]"),
    ("broadcasts", "model.py", "y = x[:,None , None, None] * 2"),
    ("chances", "model.py", "z = torch.randn(3)"),
    ("chances", "model.py", "z = torch.randn_like(x)"),
    ("chances", "model.py", "z = torch.empty(3).normal_()"),
    ("chances", "model.py", "torch.manual_seed(0)"),
    ("chances", "model.py", "torch.cuda.manual_seed_all(0)"),
    ("chances", "model.py", "z = np.random.randn(3)"),
    ("chances", "model.py", "np.random.seed(0)"),
    ("chances", "model.py", "z = np.random.default_rng()"),
    ("chances", "model.py", "import random"),
    ("chances", "model.py", "from random import shuffle"),
    ("chances", "networks/mlp.py", "class _N:\n    def forward(self, x):\n        return x + torch.randn_like(x)"),
    ("chances", "networks/mlp.py", "layer = nn.Dropout(0.1)"),
    ("chances", "codecs/table.py", "nn.init.normal_(weight)"),
    ("dangers", "bundle.py", "import pickle"),
    ("dangers", "bundle.py", "from joblib import load"),
    ("dangers", "bundle.py", "def _f():\n    state = torch.load(path, weights_only=True)"),
    ("dangers", "bundle.py", "from torch import load"),
    ("dangers", "bundle.py", "a = np.load(path, allow_pickle=True)"),
    ("dangers", "bundle.py", "a = np.load(path, allow_pickle=trusted)"),
    ("dangers", "bundle.py", "a = yaml.load(text)"),
    ("dangers", "bundle.py", "a = eval(text)"),
    ("dangers", "bundle.py", "subprocess.run(line, shell=True)"),
    ("catch_alls", "model.py", "def _f(x, **kwargs):\n    pass"),
    ("catch_alls", "model.py", "f = lambda **options: 0"),
]


@pytest.mark.parametrize(("rule", "name", "code"), PLANTED)
def test_a_planted_fault_is_found_by_its_rule_alone(tmp_path: Path, rule: str, name: str, code: str) -> None:
    modules = plant(tmp_path, {name: code})
    assert [other for other in RULES if RULES[other](modules)] == [rule]


ALLOWED = [
    ("noise.py", "y = x[:, None, None]"),
    ("model.py", "y = x[:, None] + x[None, :, None]"),
    ("model.py", "network.eval()"),
    ("model.py", "a = np.load(path, allow_pickle=False)"),
    ("model.py", "z = torch.randn(3, generator=generator)"),
    ("model.py", "z = np.random.default_rng(3)"),
    ("build.py", "torch.manual_seed(seed)"),
    ("randomness.py", "z = np.random.randn(3)"),
    ("networks/mlp.py", "class _N:\n    def __init__(self):\n        self.w = nn.Parameter(torch.randn(3))"),
    ("networks/mlp.py", "def _layer(size):\n    nn.init.normal_(layer.weight, std=size**-0.5)"),
    ("ode.py", "def _private(x, *args, key=1):\n    return 1"),
]


@pytest.mark.parametrize(("name", "code"), ALLOWED)
def test_what_is_allowed_passes(tmp_path: Path, name: str, code: str) -> None:
    modules = plant(tmp_path, {name: code})
    assert [other for other in RULES if RULES[other](modules)] == []


@pytest.mark.parametrize("first", ["", "no full stop", "One. Two.", "A sentence that goes\nover two lines."])
def test_a_first_line_that_is_not_one_sentence_is_found(tmp_path: Path, first: str) -> None:
    (tmp_path / "ode.py").write_text(f'"""{first}"""\n', encoding="utf-8")
    assert words(read_tree(tmp_path))


# -- the examples for contributors ------------------------------------------------------------------------------------


def test_the_examples_of_contributing_run_and_keep_the_rules(tmp_path: Path) -> None:
    text = (SOURCE.parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    shared: dict[str, object] = {"__name__": "contributing"}
    for block in blocks:
        # They stand on one another as they do on the page, and assert what they claim.
        exec(compile(block, "CONTRIBUTING.md", "exec"), shared)
    assert not words(plant(tmp_path, {"examples.py": "\n".join(blocks)}))
