"""The house as it is drawn: imports point down, and everything has a size that can be read."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lit_avg", "datamodules", "callbacks")

SHARED_WORDS = {
    "lit_avg.utils.arguments",  # how wrong numbers are refused
    "lit_avg.utils.command_line",  # and on the command line
    "lit_avg.visual_tokens.anyres",  # where visual tokens are counted, for everyone
    "lit_avg.batch",
    "lit_avg.utils.cache_folder",
    "lit_avg.utils.hashing",  # what names files, for everyone
    "lit_avg.inputs.chat_encoding",  # what training and `generate` make of words must be one thing
    "lit_avg.visual_tokens.granularity",
    "lit_avg.utils.hub",  # which names the Hugging Face hub knows
    "lit_avg.utils.errors",
    "lit_avg.inputs.image_decoding",  # and so of pictures
    "lit_avg.inputs",
    "lit_avg.utils.yaml_reader",  # a config means the same to a data check and to a training
    "lit_avg.utils.atomic_io",  # writing whole or not at all, for everyone
}
"""What a datamodule may know of `lit_avg`."""

ROOF = {"lit_avg.cli", "lit_avg.commands.fit"}
"""The modules that may reach over to other packages, inside a function."""

KNOWS_TRANSFORMERS = {
    "lit_avg.llava_next.answer_logprobs",
    "lit_avg.llava_next.packed_attention",
    "lit_avg.llava_next.llm_configs",
    "lit_avg.llava_next.backbone",
    "lit_avg.inputs.chat_encoding",
    "lit_avg.commands.export",
    "lit_avg.llava_next.generation",
    "lit_avg.llava_next.hf_model",
    "lit_avg.pretrained.folder",
    "lit_avg.llava_next.prompts",
    "lit_avg.training.optim",
    "lit_avg.llava_next.vision_encoder",
    "lit_avg.stages.toy_pretraining",
    "datamodules.base",
    "datamodules.encoding.conversation",
    "datamodules.jersey.make_tokenizer",
    "datamodules.jersey.spelling",
    "datamodules.jersey.symbols",
    "datamodules.encoding.hf_processor",
    "datamodules.encoding.tokenizer",
    "datamodules.encoding.prompt_format",
}
"""The modules that may import Hugging Face's transformers: models in `lit_avg`, tokenizers in `datamodules`."""

WITHOUT_TORCH = (
    "lit_avg.visual_tokens.granularity",
    "lit_avg.utils.errors",
    "lit_avg.cli",
    "lit_avg.utils.hashing",
    "lit_avg.utils.cache_folder",
    "lit_avg.utils.terminal",
    "lit_avg.utils.arguments",
)
WITHOUT_LIGHTNING = (
    "model",
    "backbone",
    "generation",
    "scaler",
    "router",
    "instruction_filter",
    "packed_rows",
    "anyres",
    "losses",
    "policies",
)


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
NAMES = {module.name for module in MODULES}
SOURCES = sorted(path for top in (*PACKAGES, "tests", "benchmarks") for path in (ROOT / top).rglob("*.py"))
YAMLS = sorted((ROOT / "experiments").rglob("*.yaml"))


def of(package: str) -> list[Module]:
    return [module for module in MODULES if module.name.split(".")[0] == package]


def touches(module: Module, package: str) -> bool:
    return any(found.split(".")[0] == package for found in module.imports)


def relative(path: object) -> str | None:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else None


def test_lit_avg_knows_neither_datamodules_nor_callbacks_but_for_the_roof_when_called() -> None:
    others = ("datamodules", "callbacks")
    assert [m.name for m in of("lit_avg") if m.name not in ROOF and any(touches(m, other) for other in others)] == []
    assert [m.name for m in of("lit_avg") if any(found.split(".")[0] in others for found in m.above)] == []


def test_datamodules_know_the_shared_words_of_lit_avg_alone() -> None:
    for module in of("datamodules"):
        known = {found for found in module.imports if found in NAMES and found.startswith("lit_avg.")}
        assert known <= SHARED_WORDS, module.name
        assert not touches(module, "callbacks"), module.name


def test_callbacks_do_not_know_datamodules() -> None:
    assert [module.name for module in of("callbacks") if touches(module, "datamodules")] == []


def test_studies_know_no_training_code() -> None:
    words = ("lit_avg.utils.errors", "lit_avg.utils.hashing", "lit_avg.utils.command_line")
    allowed = ("lit_avg.studies", "lit_avg.utils", *words)
    for module in MODULES:
        if module.name.startswith("lit_avg.studies"):
            known = {found for found in module.imports if found in NAMES and found.startswith("lit_avg.")}
            assert {found for found in known if not found.startswith(allowed)} == set(), module.name


def test_no_module_is_imported_by_what_it_imports() -> None:
    graph = {module.name: (module.above & NAMES) - {module.name} for module in MODULES}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) == NAMES


def test_few_modules_know_transformers() -> None:
    assert {module.name for module in MODULES if touches(module, "transformers")} <= KNOWS_TRANSFORMERS


def test_what_must_load_at_once_does_not_import_torch() -> None:
    assert [module.name for module in MODULES if module.name in WITHOUT_TORCH and touches(module, "torch")] == []
    assert set(WITHOUT_TORCH) <= NAMES


def test_the_mathematics_does_not_know_lightning() -> None:
    mathematics = {f"lit_avg.{name}" for name in WITHOUT_LIGHTNING}
    assert [module.name for module in MODULES if module.name in mathematics and touches(module, "lightning")] == []
    assert mathematics <= NAMES


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
