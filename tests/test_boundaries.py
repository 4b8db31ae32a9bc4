"""Who may import whom (README, Architecture): JAX stays in `simulators`, torch in `inference`, and `cigars.schema` is a leaf."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JAX, TORCH = {"jax", "numpyro", "jaxlib"}, {"torch", "sbi", "zuko", "pyro"}
FRAMEWORKS = {"simulators": JAX, "inference": TORCH}


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path, lazy=True):
    """Absolute names that a module imports; without `lazy` only those run at import, so not in functions nor under TYPE_CHECKING."""
    package = list(path.relative_to(ROOT).parent.parts)
    found, todo = set(), [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        elif lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return found


def roots(names):
    return {name.partition(".")[0] for name in names}


def loaded(code):
    """Top-level packages in memory after some code has run in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


def importing(paths):
    return "\n".join(f"import {name_of(p)}" for p in paths if "build_" not in p.stem)


@pytest.mark.parametrize(("package", "other"), [("simulators", TORCH), ("inference", JAX)])
def test_importing_one_engine_never_loads_the_framework_of_the_other(package, other):
    seen = loaded(importing(modules(package)))
    assert seen >= {package, "cigars"}
    assert seen & FRAMEWORKS[package]  # the check sees frameworks where there are some
    assert not seen & other


def test_the_application_loads_no_framework_until_it_works():
    seen = loaded("import cigars, cigars.cli, cigars.pipeline, cigars.config\ndir(cigars)\ncigars.simulate, cigars.train, cigars.report")
    assert not seen & (JAX | TORCH | {"arviz", "matplotlib"})
    assert not loaded("import cigars") & {"numpy", "pydantic", "astropy", "rich"}


@pytest.mark.parametrize("path", [p for package in FRAMEWORKS for p in modules(package)], ids=name_of)
def test_engines_know_the_schema_and_the_configuration_and_not_each_other(path):
    mine, other = ("simulators", "inference") if path.relative_to(ROOT).parts[0] == "simulators" else ("inference", "simulators")
    every = imports(path)
    assert other not in roots(every)
    assert not roots(every) & FRAMEWORKS[other]
    allowed = {"schema", "config", "files", *(["tables"] if mine == "simulators" else [])}  # banks and weights are written like any file
    assert {n.split(".")[1] for n in every if n.startswith("cigars.")} <= allowed


@pytest.mark.parametrize("path", modules("cigars"), ids=name_of)
def test_the_application_imports_engines_inside_functions_only(path):
    assert not roots(imports(path, lazy=False)) & (JAX | TORCH | {"simulators", "inference"})


def test_the_schema_is_a_leaf():
    at = roots(imports(ROOT / "cigars" / "schema.py")) - {"__future__", "typing"}
    assert at == {"numpy"}
    config = {n for path in (ROOT / "cigars" / "config").glob("*.py") for n in imports(path)}
    assert {n for n in config if n.startswith("cigars.") and not n.startswith("cigars.config")} <= {
        "cigars.schema",
        *(f"cigars.schema.{n}" for n in ("FIDUCIAL", "Globals", "Marginal")),
    }


def test_the_parser_sees_what_it_should(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "p").mkdir()
    path = tmp_path / "p" / "a.py"
    path.write_text(
        "import jax.numpy as jnp\nfrom . import b\nfrom .c import d\ndef f():\n    import torch\nif TYPE_CHECKING:\n    import sbi\n"
    )
    assert imports(path) == {"jax.numpy", "p", "p.b", "p.c", "p.c.d", "torch"}
    assert imports(path, lazy=False) == {"jax.numpy", "p", "p.b", "p.c", "p.c.d"}
