"""What ``pip install .`` installs, and what pyproject.toml says that each part needs."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bigain.utils.paths import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
# what a clone holds beside the package, which no wheel may hold
BESIDE = ("configs", "experiments", "scripts", "tests", "run.py")
# torch brings it where it exists, and everything works without it
OPTIONAL = {"triton"}
# files outside tests that need one extra more than "experiments"
PARTS = {
    "bigain/benchmarks/": "dev",
    "bigain/experiments/ray_launcher.py": "ray",
    "bigain/loggers/": "wandb",
}
# declared, but imported by no file here
UNIMPORTED = {
    "tabulate": "pandas imports it",
    "hydra-joblib-launcher": "Hydra imports it",
    "hydra-submitit-launcher": "Hydra imports it",
    "submitit": "its launcher imports it",
    **dict.fromkeys(
        ("import-linter", "mypy", "pre-commit", "pytest-timeout", "pytest-xdist", "ruff"),
        "a command or a plugin",
    ),
    **dict.fromkeys(("pandas-stubs", "types-tqdm"), "mypy reads it"),
    "setuptools": "a process of its own builds the wheel",
}


# Declared dependencies


def declared(extra: str | None) -> set[str]:
    """The distributions that pyproject.toml names for ``import bigain`` (None) or in an extra."""
    lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {str(canonicalize_name(Requirement(line).name)) for line in lines} - {"bigain"}


def parts_of(file: Path) -> set[str | None]:
    """The extras that exist for the sake of a file; None stands for ``import bigain``."""
    name = file.relative_to(REPOSITORY).as_posix()
    if file in library():
        return {None}
    if name.startswith("tests/"):
        return {"dev"}
    for part, extra in PARTS.items():
        if name.startswith(part):
            return {"experiments", extra}
    return {"experiments"}


def allowed(file: Path) -> set[str]:
    """The distributions that a file may import."""
    extras = parts_of(file)
    if "dev" in extras:  # which installs the others
        extras = {*extras, *PROJECT["optional-dependencies"]}
    return set().union(*(declared(extra) for extra in {None, *extras}))


def imports(file: Path) -> Iterator[str]:
    """The dotted names that a file imports anywhere; after ``from x import y``, x and x.y."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, file
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def library() -> frozenset[Path]:
    """The files that ``import bigain`` and its public names load, sooner or later."""
    found: set[Path] = set()
    waiting = {"bigain"}
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):  # a module's packages are loaded before it
            here = REPOSITORY.joinpath(*parts[:depth])
            file = next(f for f in (here / "__init__.py", here.with_suffix(".py")) if f.exists())
            if file in found:
                continue
            found.add(file)
            waiting |= {other for other in imports(file) if is_module(other)}
    return frozenset(found)


def is_module(name: str) -> bool:
    here = REPOSITORY.joinpath(*name.split("."))
    return name.split(".")[0] == "bigain" and (here.is_dir() or here.with_suffix(".py").exists())


@cache
def distributions_of() -> dict[str, set[str]]:
    """The distributions that provide each top-level name, as pyproject.toml would name them."""
    found = packages_distributions()
    return {name: {canonicalize_name(one) for one in several} for name, several in found.items()}


def third_party(file: Path) -> dict[str, set[str]]:
    """The distributions that may provide each name of other projects that a file imports."""
    top = {name.partition(".")[0] for name in imports(file)}
    ours = {"bigain", *(Path(name).stem for name in BESIDE)}
    others = top - set(sys.stdlib_module_names) - ours - OPTIONAL
    return {name: distributions_of().get(name, {name}) for name in others}


def files() -> list[Path]:
    folders = (REPOSITORY / name for name in ("bigain", "scripts", "tests"))
    return [REPOSITORY / "run.py", *(f for folder in folders for f in folder.rglob("*.py"))]


def test_what_is_imported_is_declared():
    lacking = [
        f"{file.relative_to(REPOSITORY)} imports {name}, which no extra of it names"
        for file in files()
        for name, providers in third_party(file).items()
        if not providers & allowed(file)
    ]
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize("extra", [None, *PROJECT["optional-dependencies"]])
def test_what_is_declared_is_imported(extra):
    used = {
        provider
        for file in files()
        if extra in parts_of(file)
        for providers in third_party(file).values()
        for provider in providers
    }
    assert declared(extra) - used == declared(extra) & set(UNIMPORTED)


def test_no_package_is_declared_twice():
    """An extra that needs another names it instead."""
    extras = PROJECT["optional-dependencies"]
    named = [name for extra in (None, *extras) for name in declared(extra)]
    assert sorted(named) == sorted(set(named))
    for extra, lines in extras.items():
        assert extra == "experiments" or lines[0].startswith("bigain[experiments")


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, unpacked, as pip builds it of a clone; from a copy, because building leaves files.

    It needs no network.
    """
    clone = tmp_path_factory.mktemp("clone")
    unwanted = shutil.ignore_patterns("__pycache__", "golden")
    for name in ("bigain", *BESIDE, "pyproject.toml", "LICENSE"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, clone / name, ignore=unwanted)
        else:
            shutil.copy(source, clone / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], capture_output=True, text=True, cwd=clone)
    assert done.returncode == 0, done.stderr
    (made,) = (clone / "dist").glob("bigain-*.whl")
    site = tmp_path_factory.mktemp("site")
    with ZipFile(made) as archive:
        archive.extractall(site)
    return site


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    held = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    package = {name for name in held if not name.startswith("bigain-")}
    kept = [REPOSITORY / "bigain" / name for name in ("datasets/classes", "reporting")]
    data = {*kept[0].glob("*.csv"), *kept[1].glob("*.j2")}
    assert len(data) > 4
    expected = {*(REPOSITORY / "bigain").rglob("*.py"), *data}
    assert package == {path.relative_to(REPOSITORY).as_posix() for path in expected}
    assert any(name.endswith("licenses/LICENSE") for name in held)


# The installed library, without the packages of any extra

# the first lines of a process to which only the standard library, the wheel and the packages of
# `import bigain` are known
ALONE = """
import sys
from importlib.machinery import PathFinder

class Installed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in {blocked!r}:
            return super().find_spec(name, path, target)

sys.meta_path = [Installed if finder is PathFinder else finder for finder in sys.meta_path]
sys.path += {folders!r}
"""
# one compressor of each kind, in models of random weights of every family
LIBRARY = """
import inspect
import torch
from diffusers import DiTTransformer2DModel
import bigain
import tiny_families
from bigain.compression import architecture_of

assert bigain.__file__.startswith({site!r}), bigain.__file__
public = {{name: getattr(bigain, name) for name in bigain.__all__}}
tome, lgtm, iekvd = bigain.ToMe(0.5), bigain.LGTM(0.5), bigain.IEKVD(2)
compressors = [
    tome, lgtm, iekvd, bigain.SiTo(0.5), bigain.ToDo(2), bigain.ABM(0.5), bigain.KVMerge(0.5),
    bigain.KVSelect(2), bigain.FrequencyFilter("low"), bigain.Compose(lgtm, iekvd),
    bigain.Cached(lgtm), bigain.Anchored(tome),
]
classes = [one for one in public.values() if inspect.isclass(one)]
kinds = {{c for c in classes if issubclass(c, bigain.Compressor)}} - {{bigain.Compressor}}
assert kinds == set(map(type, compressors)), kinds

models = [tiny_families.published(family, sample_size=16) for family in ("sdxl", "pixart", "sd3")]
models.append(tiny_families.denoiser("flux"))
models.append(DiTTransformer2DModel(
    sample_size=16, num_attention_heads=2, attention_head_dim=8, num_layers=3, in_channels=4,
    out_channels=8, patch_size=2, num_embeds_ada_norm=10,
).eval())
torch.set_grad_enabled(False)
for model in models:
    inputs = architecture_of(model).random_inputs(2)
    plain = model(**inputs).sample
    for compressor in compressors:
        handle = bigain.compress(model, compressor, blocks="all")
        changed = model(**inputs).sample
        assert compressor is not lgtm or 0 < bigain.flops_saved(handle) < 1
        handle.remove()
        # the first forward of an anchor is exact
        kind = (type(compressor).__name__, type(model).__name__)
        assert torch.equal(changed, plain) == (kind[0] == "Anchored"), kind
    assert torch.equal(model(**inputs).sample, plain)
print(len(models), "models")
"""


@cache
def packages_of_the_library() -> set[str]:
    """The distributions that ``pip install .`` brings, as far as they are installed here."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in PROJECT["dependencies"]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            try:
                lines = requires(name) or ()
            except PackageNotFoundError:
                continue
            more = map(Requirement, lines)
            waiting += [r for r in more if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def alone(wheel: Path, folder: Path, code: str, more: Iterable[Path] = ()) -> tuple[int, str, str]:
    """Run ``code`` in ``folder`` with nothing to import but the wheel, its packages and ``more``.

    Returns:
        The exit status, and what it printed and complained of.
    """
    installed = packages_of_the_library()
    blocked = {name for name, several in distributions_of().items() if not several & installed}
    paths = sysconfig.get_paths()
    folders = [str(wheel), *dict.fromkeys((paths["purelib"], paths["platlib"])), *map(str, more)]
    text = ALONE.format(blocked=blocked - {"bigain"}, folders=folders) + code
    command = [sys.executable, "-I", "-S", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def test_the_library_needs_its_own_packages_alone(wheel, tmp_path):
    assert {"torch", "diffusers", "numpy"} <= packages_of_the_library()
    assert not {"hydra-core", "pandas", "transformers", "matplotlib"} & packages_of_the_library()
    code = LIBRARY.format(site=str(wheel))
    status, printed, said = alone(wheel, tmp_path, code, more=[REPOSITORY / "tests"])
    assert status == 0, said
    assert printed.endswith("5 models\n")


@pytest.mark.parametrize(
    "command",
    [
        f"import runpy; runpy.run_path({str(REPOSITORY / 'run.py')!r}, run_name='__main__')",
        "import runpy; runpy.run_module('bigain.reporting', run_name='__main__', alter_sys=True)",
    ],
    ids=["run.py", "reporting"],
)
def test_a_command_without_its_packages_says_what_installs_them(command, wheel, tmp_path):
    status, printed, said = alone(wheel, tmp_path, command)
    assert status == 1 and not printed
    assert re.fullmatch(r"error: .*`make venv`.*'\.\[experiments\]'.*\n", said), said


@pytest.mark.parametrize("package", ["backbones", "datasets", "experiments", "features", "metrics"])
def test_a_package_without_its_packages_says_what_installs_them(package, wheel, tmp_path):
    code = f"import bigain\ntry:\n    import bigain.{package}\nexcept ImportError as error:\n"
    status, printed, said = alone(wheel, tmp_path, code + "    print(error)")
    assert status == 0, said
    assert printed.count("\n") == 1 and "`make venv`" in printed
