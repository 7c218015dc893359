"""What is installed: floors and pins, and another project of the same name."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks.lowest import EXTRAS, TESTS, floors
from calibrax import cli
from calibrax.runs import extra

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pin(name, python):
    """The version of a package that constraints.txt gives this Python."""
    environment = {**default_environment(), "python_version": python}
    found = [
        each
        for each in PINS
        if normal(each.name) == normal(name) and (not each.marker or each.marker.evaluate(environment))
    ]
    (requirement,) = found
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


# Floors and pins


def test_the_core_is_light():
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert names == {"jax", "flax", "chex", "jaxtyping", "numpy", "scipy"}


def test_what_is_installed_for_tests_is_pinned_and_above_its_floor():
    lines = [line for line in PROJECT["dependencies"] + OPTIONAL["train"] + OPTIONAL["dev"] if "calibrax[" not in line]
    assert len(lines) > 25
    for python in ("3.11", "3.12", "3.13"):
        for requirement in map(Requirement, lines):
            assert requirement.specifier.contains(pin(requirement.name, python)), requirement


def test_the_floors_tested_are_those_of_pyproject():
    core, train = floors(EXTRAS["core"]), floors(EXTRAS["train"])
    assert (core["jax"], core["flax"], core["numpy"]) == ("0.4.33", "0.10.2", "1.26")
    assert (train["jax"], train["optax"], train["distrax"]) == ("0.10", "0.2.8", "0.1.9")
    for name, version in core.items():
        assert Version(train[name]) >= Version(version), name
    named = {Requirement(line).name for line in PROJECT["dependencies"] + OPTIONAL["train"]}
    assert named <= set(train)


def test_the_tests_of_the_floors_exist():
    for tests in TESTS.values():
        assert all((ROOT / name).exists() for name in tests)


def test_an_extra_is_its_import_names():
    """The modules of the extra are those of the packages that it adds to the core."""
    modules = {{"Pillow": "pil", "pillow": "pil"}.get(name, normal(name)) for name in _added_by_train()}
    assert modules == {normal(name) for name in extra.MODULES}


def _added_by_train():
    brought_by_flax = {"optax", "orbax-checkpoint"}
    core = {Requirement(line).name for line in PROJECT["dependencies"]}
    return {Requirement(line).name for line in OPTIONAL["train"]} - core - brought_by_flax


def test_ruff_before_a_commit_is_the_pinned_one():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (rev,) = [repo["rev"] for repo in config["repos"] if "ruff" in repo["repo"]]
    assert rev == f"v{pin('ruff', '3.13')}"


def test_workflows_run_every_supported_python_and_targets_that_exist():
    texts = {path.stem: path.read_text(encoding="utf-8") for path in WORKFLOWS}
    assert set(texts) == {"docs", "release", "tests"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"run: make ([a-z -]+)", "".join(texts.values()))
    assert "test-lowest" in " ".join(targets)
    for target in {name for names in targets for name in names.split()} - {"docs"}:
        assert re.search(rf"^{target}:", makefile, re.M), target
    pythons = yaml.safe_load(texts["tests"])["jobs"]["pinned"]["strategy"]["matrix"]["python"]
    assert [f"Programming Language :: Python :: {python}" for python in pythons] == [
        line for line in PROJECT["classifiers"] if ":: Python ::" in line
    ]


# Another project of this name


OURS = f"Author: {cli.AUTHOR}"


def put(folder, version, author=OURS, project="calibrax"):
    (folder / f"{project}-{version}.dist-info").mkdir(parents=True)
    metadata = (
        f"Metadata-Version: 2.4\nName: {project}\nVersion: {version}\n{author}\n\nAuthor: {cli.AUTHOR} in the text"
    )
    (folder / f"{project}-{version}.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")


@pytest.fixture(name="path")
def _path(tmp_path, monkeypatch):
    """A folder that is the whole path for modules, and for the metadata of what is installed."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_the_author_is_that_of_the_project():
    assert [author["name"] for author in PROJECT["authors"]] == [cli.AUTHOR]


def test_one_installation_is_nothing_to_speak_of(path):
    assert cli.mixed_installations() is None
    put(path, "0.1.0")
    put(path, "3.0", "Author: Somebody", project="calibrax_tools")
    (path / "calibrax-0.0.9.dist-info").mkdir()  # what an uninstallation left
    assert cli.mixed_installations() is None
    sys.path.append(str(path))
    assert cli.mixed_installations() is None


def test_one_in_the_system_and_one_in_an_environment_is_nothing_either(path):
    put(path, "0.1.0")
    put(path / "system", "0.0.9")
    sys.path.append(str(path / "system"))
    assert cli.mixed_installations() is None


@pytest.mark.parametrize("elsewhere", ["", "system"])
@pytest.mark.parametrize("author", ["Author: Somebody", "Author-email: Somebody <somebody@example.org>"])
def test_another_project_of_this_name_is_noticed(path, elsewhere, author):
    put(path, "0.1.0")
    put(path / elsewhere, "7.3", author)
    sys.path.append(str(path / elsewhere))
    line = cli.mixed_installations()
    assert line is not None
    assert f"mixed: 0.1.0 in {path}, 7.3 of another project in {path / elsewhere};" in line
    assert "pip uninstall calibrax" in line


def test_another_project_is_noticed_from_a_checkout_that_is_not_installed(path):
    put(path, "7.3", "Author: Somebody")
    assert f"mixed: 7.3 of another project in {path};" in str(cli.mixed_installations())


def test_one_installed_over_the_other_is_noticed(path):
    put(path, "0.1.0")
    put(path, "0.0.9")
    assert re.search(rf"mixed: 0\.\d\.\d in {path}, 0\.\d\.\d in {path};", str(cli.mixed_installations()))


def test_the_command_line_says_so_in_one_line_and_goes_on(tmp_path, monkeypatch, capsys):
    put(tmp_path, "7.3", "Author: Somebody")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["--version"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"calibrax: [^\n]*7\.3 of another project[^\n]*\n", err)
    assert out.startswith("calibrax 0")
