"""The directions of import, read from the source."""

import ast

import pytest
from conftest import ROOT

STANDARD_ONLY = ("resnet_keras.models.architectures", "resnet_keras.models.complexity")
# Package -> the packages of this repository that it may import, itself apart.
ALLOWED = {
    "pipelines": set(),
    "resnet_keras.models": {"resnet_keras.errors"},
    "resnet_keras.training": {
        "resnet_keras.models",
        "pipelines",
        "resnet_keras.errors",
        "resnet_keras.records",
        "resnet_keras.startup",
    },
    "resnet_keras.evaluation": {"resnet_keras.models", "pipelines", "resnet_keras.errors"},
    "resnet_keras.serving": {
        "resnet_keras.models",
        "pipelines",
        "resnet_keras.errors",
        "resnet_keras.startup",
    },
    "resnet_keras.reporting": {"resnet_keras.errors", "resnet_keras.records"},
}
SOURCES = sorted([*ROOT.glob("resnet_keras/**/*.py"), *ROOT.glob("pipelines/**/*.py")])


def _module(path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path) -> set[str]:
    """Return the absolute names of all modules a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_there_is_something_to_check():
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=_module)
def test_imports_go_one_way(path):
    module, imports = _module(path), _imports(path)
    ours = {n for n in imports if _within(n, "resnet_keras") or _within(n, "pipelines")}
    assert not {n for n in ours if _within(n, "resnet_keras.main")}, "nothing imports main"
    if module not in ("resnet_keras.main", "resnet_keras.command_line"):
        assert not {n for n in imports if _within(n, "absl")}, "only these two know flags"
    for package, allowed in ALLOWED.items():
        if _within(module, package):
            strays = {n for n in ours if not any(_within(n, p) for p in {package, *allowed})}
            assert not strays
    if module in STANDARD_ONLY:
        import sys

        outside = {n for n in imports - ours if n.split(".")[0] not in sys.stdlib_module_names}
        assert not outside
        assert all(n.startswith(STANDARD_ONLY) for n in ours)
