"""The borders of docs/architecture.md, read off the source, and what importing a part brings in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pal_jax

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "pal_jax").rglob("*.py"))

PURE = {"graph", "graph_kinds", "gram", "losses", "spectral", "streaming", "closed_form", "views"}

# Module or package -> what of pal_jax it may import; what is not listed is held by `banned` alone.
ALLOWED = {
    **{name: PURE | {"errors"} for name in PURE},
    "errors": set(),
    "active": {"active", "errors"},
    "models": {"convolution", "errors"},
    "convolution": set(),
    "memory": set(),
    "data": {"errors", "pictures", "records", "synthetic"},
    "records": {"errors"},
    "synthetic": set(),
    "evaluate": {"errors"},
    "checkpoint": {"hosts", "errors"},
    "hosts": {"sharding", "errors", "signals"},
    "signals": set(),
    "record": {"export", "errors"},
    "sharding": set(),
    "train": {"graph", "active", "sharding", "errors"},
}


def banned(module):
    """Packages that stay out of `module`."""
    if module in PURE:
        return {"flax", "optax", "ml_collections", "absl", "logging", "json", "pathlib", "os"}
    if module == "active":
        return {"jax", "flax", "optax", "scipy", "sklearn", "ml_collections"}
    return {"ml_collections", "tensorflow"} | (set() if module == "models" else {"flax"})


def imports(path):
    """Dotted names of everything that `path` imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_layers(path):
    me = path.relative_to(ROOT / "pal_jax").with_suffix("").parts[0]
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in banned(me), f"{path} imports {name}"
        if top == "pal_jax" and rest:
            assert rest[0] not in {"experiment", "run"} or me in {"experiment"}, name
            assert rest[0] in ALLOWED.get(me, {rest[0]}), f"{path} imports {name}"


def test_only_experiment_and_the_configs_read_configs():
    readers = [p.name for p in SOURCES if "config.data" in p.read_text()]
    assert readers == ["experiment.py"]


def modules_after(statement):
    """Top-level packages that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


def test_the_asking_side_never_imports_jax():
    names = [f"pal_jax.active.{p.stem}" for p in (ROOT / "pal_jax/active").glob("[a-z]*.py")]
    assert len(names) >= 7
    loaded = modules_after(f"import {', '.join(names)}")
    assert "numpy" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "optax", "scipy"}


def test_the_package_is_light_and_its_parts_are_there():
    assert not modules_after("import pal_jax") & {"jax", "numpy"}
    parts = "; ".join(f"pal_jax.{name}" for name in pal_jax.__all__)
    assert {"jax", "numpy"} <= modules_after(f"import pal_jax; {parts}; pal_jax.active.sampler")
    with pytest.raises(AttributeError, match="losess"):
        pal_jax.losess  # noqa: B018 # pyright: ignore[reportAttributeAccessIssue]


def test_tensorflow_is_never_imported():
    loaded = modules_after("import main; from pal_jax import experiment, run")
    assert {"jax", "flax", "orbax"} <= loaded
    assert "tensorflow" not in loaded
