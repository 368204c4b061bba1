"""The house as it is drawn: imports point down, and everything has a size that can be read."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lit_avg", "datamodules", "callbacks")

ORDER = (
    "lit_avg.cli",
    "lit_avg.commands",
    "lit_avg.planning",
    "callbacks",
    "lit_avg.stages",
    "lit_avg.evaluation",
    "lit_avg.feedback",
    "lit_avg.training",
    "lit_avg.model",
    "lit_avg.pretrained",
    "lit_avg.routing",
    "lit_avg.llava_next",
    "datamodules.__init__",
    "datamodules.packing",
    "datamodules.checking",
    "datamodules.jersey",
    "datamodules",
    "datamodules.loading",
    "datamodules.encoding",
    "datamodules.shards",
    "lit_avg.data",
    "lit_avg.inputs",
    "lit_avg.visual_tokens",
    "lit_avg.studies.report",
    "lit_avg.studies.launchers",
    "lit_avg.studies.runs",
    "lit_avg.studies.spec",
    "lit_avg.config",
    "lit_avg.runs",
    "lit_avg.batch",
    "lit_avg.semantics",
    "lit_avg.result_names",
    "lit_avg.utils",
)
"""The packages, top to bottom: each may import what stands below it, also within its functions."""

KNOWS_TRANSFORMERS = {
    "lit_avg.commands.export",
    "lit_avg.data",
    "lit_avg.inputs.chat_encoding",
    "lit_avg.llava_next",
    "lit_avg.planning",
    "lit_avg.pretrained.folder",
    "lit_avg.stages.toy_pretraining",
    "datamodules.base",
    "datamodules.encoding",
    "datamodules.jersey",
}
"""What may import Hugging Face's transformers: models in `lit_avg`, tokenizers in `datamodules`."""

WITHOUT_TORCH = (
    "lit_avg.cli",
    "lit_avg.result_names",
    "lit_avg.studies",
    "lit_avg.utils.arguments",
    "lit_avg.utils.cache_folder",
    "lit_avg.utils.errors",
    "lit_avg.utils.hashing",
    "lit_avg.utils.terminal",
    "lit_avg.visual_tokens.granularity",
)
WITHOUT_LIGHTNING = (
    "lit_avg.inputs",
    "lit_avg.llava_next",
    "lit_avg.model",
    "lit_avg.pretrained",
    "lit_avg.routing",
    "lit_avg.visual_tokens",
)
"""The mathematics."""


@dataclass(frozen=True)
class Module:
    """One source file and what it imports: `above` when it is loaded, `within` only when a function is called."""

    name: str
    path: Path
    above: frozenset[str]
    within: frozenset[str]

    @property
    def imports(self) -> frozenset[str]:
        return self.above | self.within


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names; `from a.b import c` gives `a.b.c` as well, since c may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def read(path: Path) -> Module:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    within = frozenset(found for function in functions for found in imported(function))
    return Module(name, path, frozenset(imported(tree)) - within, within)


MODULES = [read(path) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
BY_NAME = {module.name: module for module in MODULES}
NAMES = set(BY_NAME)
FRONTS = {"lit_avg", "lit_avg.studies"}
"""Packages whose `__init__.py` holds nothing but words."""
SOURCES = sorted(path for top in (*PACKAGES, "tests", "benchmarks") for path in (ROOT / top).rglob("*.py"))
YAMLS = sorted((ROOT / "experiments").rglob("*.yaml"))


def of(package: str) -> list[Module]:
    return [module for module in MODULES if module.name.split(".")[0] == package]


def within(module: str, packages: Iterable[str]) -> list[str]:
    """Those of some packages that a module is in, or is."""
    return [package for package in packages if f"{module}.".startswith(f"{package}.")]


def floor_of(module: Module) -> int:
    """Place in `ORDER`; the front of a package that names what is below it may stand apart from the rest."""
    front = f"{module.name}.__init__"
    return ORDER.index(front if front in ORDER else max(within(module.name, ORDER), key=len))


def touches(module: Module, package: str) -> bool:
    return any(found.split(".")[0] == package for found in module.imports)


def relative(path: object) -> str | None:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else None


def test_imports_point_down_the_order_of_packages() -> None:
    upward = [
        (module.name, found)
        for module in MODULES
        for found in module.imports & NAMES - FRONTS
        if module.name not in FRONTS and floor_of(BY_NAME[found]) < floor_of(module)
    ]
    assert upward == []


def test_data_modules_and_callbacks_meet_lit_avg_in_yaml_alone() -> None:
    apart = {"lit_avg": ("datamodules", "callbacks"), "datamodules": ("callbacks",), "callbacks": ("datamodules",)}
    for package, others in apart.items():
        knowing = [module.name for module in of(package) if any(touches(module, other) for other in others)]
        assert [name for name in knowing if not within(name, ["lit_avg.commands"])] == []


def test_studies_know_no_training_code() -> None:
    allowed = ("lit_avg.studies", "lit_avg.result_names", "lit_avg.utils")
    studies = [module for module in MODULES if within(module.name, ["lit_avg.studies"])]
    known = {found for module in studies for found in module.imports & NAMES if found.startswith("lit_avg.")}
    assert {found for found in known if not within(found, allowed)} == set()


def test_no_module_is_imported_by_what_it_imports() -> None:
    graph = {module.name: (module.imports & NAMES) - {module.name} for module in MODULES}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) == NAMES


def test_few_modules_know_transformers() -> None:
    knowing = [module.name for module in MODULES if touches(module, "transformers")]
    assert [name for name in knowing if not within(name, KNOWS_TRANSFORMERS)] == []


def test_what_must_load_at_once_does_not_import_torch() -> None:
    quick = [module for module in MODULES if within(module.name, WITHOUT_TORCH)]
    assert [module.name for module in quick if any(name.split(".")[0] == "torch" for name in module.above)] == []
    assert set(WITHOUT_TORCH) <= NAMES


def test_the_mathematics_does_not_know_lightning() -> None:
    mathematics = [module for module in MODULES if within(module.name, WITHOUT_LIGHTNING)]
    assert [module.name for module in mathematics if touches(module, "lightning")] == []
    assert set(WITHOUT_LIGHTNING) <= NAMES


def test_a_folder_shows_few_files() -> None:
    folders = {path.parent for path in SOURCES if not path.is_relative_to(ROOT / "tests")}
    files = {folder: [path.name for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert {relative(folder): len(names) for folder, names in files.items() if len(names) > 16} == {}


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_and_its_functions_have_a_readable_size(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    bodies = {node.name: (node.end_lineno or 0) - node.body[0].lineno + 1 for node in functions}
    assert {name: lines for name, lines in bodies.items() if lines > 40} == {}


def opens_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call reads or writes text by whatever encoding the machine prefers."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = {keyword.arg for keyword in call.keywords}
    if "encoding" in named or name not in ("open", "fdopen", "read_text", "write_text", "run", "Popen"):
        return False
    modes = [value.value for value in call.args if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    of_a_path = isinstance(call.func, ast.Attribute) and not call.args
    of_a_tar = name == "open" and isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "tarfile"
    text = any(set(mode) <= set("rwax+t") for mode in modes) or of_a_path or of_a_tar
    return "text" in named if name in ("run", "Popen") else name in ("read_text", "write_text") or text


@pytest.mark.parametrize("path", [path for path in SOURCES if not path.is_relative_to(ROOT / "tests")], ids=relative)
def test_text_is_read_and_written_as_utf_8_whatever_the_machine_prefers(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if opens_text_without_encoding(call)] == []


@pytest.mark.parametrize("path", YAMLS, ids=relative)
def test_an_experiment_fits_on_a_page_and_an_ablation_says_only_what_differs(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= (8 if "ablations" in path.parts else 40)
    assert lines[0].startswith("# "), "an experiment begins with what it is"
