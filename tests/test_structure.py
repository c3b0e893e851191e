"""The house: who may import whom, what is public, and which words are names here."""

import ast
import inspect
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import otel_bridge

PACKAGE = Path(otel_bridge.__file__).parent

FLOORS = {
    "_core": 0,
    "errors": 0,
    "semconv": 0,
    "version": 0,
    "config": 1,
    "domain": 1,
    "identity": 1,
    "journal": 2,
    "propagation": 2,
    "telemetry": 3,
    "langsmith": 3,
    "batches": 4,
    "instrumentation": 4,
    "cli": 5,
}
FREE = {"simulator"}
MOST_ENTRIES = 17
MOST_FILES = 105
HOMES = {
    "anthropic": {"batches", "instrumentation"},
    "click": {"cli"},
    "genai_prices": {"domain/pricing.py"},
    "langsmith": {"langsmith", "propagation"},
    "psycopg": {"journal"},
    "requests": {"langsmith", "_core/http.py"},
    "rich": {"cli"},
    "sqlite3": {"journal"},
    "urllib3": {"langsmith"},
}
"""The rooms, and single files, that may import each library."""
PRIVATE_ACCESS = {"_core/otel_sdk.py", "batches/executor.py", "instrumentation/calls.py"}
FORMER_NAMES = {
    *("Ago", "Ancestry", "BatchFacts", "ById", "Choice", "Complaints", "Give", "Leg", "Losses"),
    *("Outcome", "Owner", "Part", "Pass", "Reading", "Sent", "Tally", "Watch", "Watched"),
    *("adopted", "aside", "claim_count", "claim_telling", "end_telling", "first_to_take"),
    *("give_up", "guarded", "hold_to", "intend", "is_ours", "knew", "known_here", "lack"),
    *("leave_count", "lineage", "losses", "never_in_the_way", "object_of", "objects_in"),
    *(
        "on_given",
        "ours",
        "say_absent",
        "sum_up",
        "take_over",
        "tell",
        "telling",
        "text_of",
        "told",
    ),
}
"""Names that only this project understood; no function, class, argument or variable has them."""

FILES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text())
    for path in PACKAGE.rglob("*.py")
}


def room(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def imported(path: str) -> set[str]:
    """What a file imports, under TYPE_CHECKING and within functions, too."""
    names = set()
    for node in ast.walk(FILES[path]):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def files_of(names: set[str]) -> set[str]:
    """The files of the package among imported names."""
    paths = {
        name.removeprefix("otel_bridge.").replace(".", "/")
        for name in names
        if name.startswith("otel_bridge.")
    }
    return {f"{path}.py" for path in paths} & FILES.keys() | {
        f"{path}/__init__.py" for path in paths
    } & FILES.keys()


def test_a_module_imports_only_from_floors_below() -> None:
    for path in FILES:
        here = room(path)
        if here == "__init__":
            continue
        assert here in FLOORS or here in FREE, f"{path}: which floor is it on?"
        for there in {room(each) for each in files_of(imported(path))} - {here}:
            if here in FREE:
                raise AssertionError(f"{path} imports {there}; the simulator imports nothing")
            if there in FREE:
                assert here == "cli", f"{path} imports the simulator"
                continue
            assert FLOORS[there] < FLOORS[here], f"{path} imports {there}"


def test_no_files_import_each_other() -> None:
    """A circle raises CycleError. A package's own face is imported by nobody in it."""
    graph = {
        path: {each for each in files_of(imported(path)) if not each.endswith("__init__.py")}
        for path in FILES
        if not path.endswith("__init__.py")
    }
    assert list(TopologicalSorter(graph).static_order())


def test_each_library_has_its_room() -> None:
    for path in FILES:
        for library in {name.partition(".")[0] for name in imported(path)} & HOMES.keys():
            assert {room(path), path} & HOMES[library], f"{path} imports {library}"


def test_what_is_private_to_opentelemetry_is_in_one_file() -> None:
    for path in FILES:
        if path in PRIVATE_ACCESS or room(path) in FREE:
            continue
        text = (PACKAGE / path).read_text()
        assert "SLF001" not in text, path
        private = [name for name in imported(path) if re.match(r"opentelemetry\b.*\._", name)]
        assert not private, f"{path} imports {private}"


def test_the_house_stays_small() -> None:
    entries = [each for each in PACKAGE.iterdir() if each.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES
    assert len(FILES) <= MOST_FILES


def test_names_are_those_of_the_field() -> None:
    for path, tree in FILES.items():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    name = node.name
                case ast.arg():
                    name = node.arg
                case ast.Name(ctx=ast.Store()):
                    name = node.id
                case ast.Attribute(ctx=ast.Store()):
                    name = node.attr
                case _:
                    continue
            assert name.lstrip("_") not in FORMER_NAMES, f"{path}:{node.lineno}: {name}"


def test_the_domain_knows_neither_opentelemetry_nor_an_sdk() -> None:
    modules = [f"otel_bridge.domain.{path.stem}" for path in (PACKAGE / "domain").glob("[a-z]*.py")]
    assert len(modules) > 5
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    # genai_prices loads pydantic, and pydantic the plugins of others, which may load anything.
    environment = {"PYDANTIC_DISABLE_PLUGINS": "__all__"}
    loaded = subprocess.check_output(
        [sys.executable, "-c", code], env=environment, text=True
    ).split()
    assert {"opentelemetry", "anthropic", "langsmith"}.isdisjoint(loaded)
    for path in (each for each in FILES if room(each) == "domain"):  # nor later, in a function
        roots = {name.split(".")[0] for name in imported(path)}
        assert {"opentelemetry", "anthropic", "langsmith"}.isdisjoint(roots), path


def test_the_public_names_are_these() -> None:
    assert sorted(otel_bridge.__all__) == otel_bridge.__all__
    assert all(hasattr(otel_bridge, name) for name in otel_bridge.__all__)
    assert set(otel_bridge.__all__) <= set(dir(otel_bridge)), "notebooks complete them"
    public = {name for name in vars(otel_bridge) if not name.startswith("_")}
    modules = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert public - modules <= set(otel_bridge.__all__)


def test_a_type_in_a_signature_of_an_executor_is_public() -> None:
    tree = FILES["batches/executor.py"]
    ours = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("otel_bridge.")
        for alias in node.names
    } | {"Settings"}
    executors = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("BatchExecutor")
    ]
    assert len(executors) == 2
    for method in (each for node in executors for each in node.body):
        if not isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        arguments = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
        for annotation in [method.returns, *(each.annotation for each in arguments)]:
            for node in ast.walk(annotation) if annotation else ():
                if isinstance(node, ast.Name) and node.id in ours:
                    assert node.id in otel_bridge.__all__, f"{method.name}: {node.id}"


def test_an_executor_shows_what_users_call_and_no_more() -> None:
    shared = {
        *("backfill", "cancel", "collect", "describe", "estimate", "run", "run_structured"),
        *("since", "start", "submit"),
    }
    for executor, close in (
        (otel_bridge.BatchExecutor, "close"),
        (otel_bridge.AsyncBatchExecutor, "aclose"),
    ):
        public = {name for name in dir(executor) if not name.startswith("_")}
        assert public == shared | {close}
        for name in public:
            method = getattr(executor, name)
            assert not inspect.isgeneratorfunction(method), name
            assert not inspect.isasyncgenfunction(method), name


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").read_text() == ""


def test_our_own_calls_take_nothing_private_of_the_anthropic_sdk() -> None:
    for path in FILES:
        if room(path) != "instrumentation":
            private = {name for name in imported(path) if name.startswith("anthropic._")}
            assert not private, f"{path} imports {private}"


def test_a_process_without_the_anthropic_sdk_pays_for_no_sdk() -> None:
    code = (
        "from otel_bridge.instrumentation import AnthropicBatchesInstrumentor as Watching;"
        "Watching().instrument(); import sys; print(*sys.modules)"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert {"anthropic", "langsmith", "genai_prices", "opentelemetry.sdk"}.isdisjoint(loaded)


WATCHED = """
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
import otel_bridge

trace.set_tracer_provider(TracerProvider())
otel_bridge.instrument()
otel_bridge.BatchExecutor()
propagate.inject({})
import sys; print(*sys.modules)
"""


def test_without_the_mirror_a_process_does_not_pay_for_langsmith() -> None:
    # Nor may a propagator load what asks for propagators, as logfire's plugin for pydantic does:
    # that is a warning, and an error here.
    loaded = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", WATCHED],
        env={
            "PATH": os.environ["PATH"],
            "ANTHROPIC_API_KEY": "test",
            "OTEL_PROPAGATORS": "tracecontext,baggage,langsmith",
            "OTEL_PYTHON_CONTEXT": "langsmith",
            "LANGSMITH_TRACING": "false",
            "OTEL_BRIDGE_STATE_DIR": os.devnull,
        },
        text=True,
    ).split()
    assert "otel_bridge.instrumentation.tracker" in loaded
    assert {"langsmith", "otel_bridge.langsmith.delivery"}.isdisjoint(loaded)
