"""What is released: the files of the wheel, the wheel where it is installed, and one version in all places.

The quick tests install the wheel beside the packages of this environment. The slow ones install it with each
extra into an empty environment, from the package registry.
"""

from __future__ import annotations

import email
import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml
from packaging.version import Version

from tests.support import tiny
from tests.support.packages import (
    ROOT,
    Environment,
    Packages,
    build,
    lend_packages,
    make_environment,
    package_files,
    read,
    targets,
)
from tests.support.stores import make_store
from wif_store import __version__, open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INFO = f"wif_store-{__version__}.dist-info"
RELEASE = ROOT / ".ci" / "release.py"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("store") / "winogrande.zarr", per_class=40)


@pytest.fixture(scope="module")
def installed(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = make_environment(tmp_path_factory.mktemp("installed"))
    environment.install("--no-deps", "--no-index", packages.wheel)
    lend_packages(environment)
    return environment


def test_the_wheel_holds_the_package_and_the_card_and_nothing_else(packages: Packages) -> None:
    added = {
        f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    found = set(packages.members())
    assert found == package_files() | {"wif_store/cards/dataset_card.md.jinja"} | added
    assert {
        "wif_store/py.typed",
        "wif_store/explainer/pages/quiz.html.jinja",
        "wif_store/scorer/pages/common.css.jinja",
        "wif_store/scorer/pages/report.html.jinja",
        "wif_store/scorer/pages/report.js.jinja",
        "wif_store/scorer/paper_figure1.json",
    } <= found


def test_a_wheel_of_the_sdist_is_the_wheel(packages: Packages, tmp_path: Path) -> None:
    source = packages.unpack(tmp_path / "source")
    names = {path.name for path in source.iterdir()}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml", "wif_store"} <= names
    assert not names & {"tests", "docs", "benchmarks", "requirements"}
    again = build(source, tmp_path / "again")
    assert again.wheel.name == packages.wheel.name
    assert again.members() == packages.members()
    assert again.sdist.read_bytes() == packages.sdist.read_bytes()


def test_the_container_is_given_all_that_the_wheel_is_made_of(packages: Packages, tmp_path: Path) -> None:
    first_stage = read("Dockerfile").split("\nFROM ")[0]
    copied = [line.split()[1:] for line in first_stage.splitlines() if line.startswith("COPY ")]
    let_through = set(re.findall(r"^!(.+)$", read(".dockerignore"), re.MULTILINE))
    for *names, _ in copied:
        assert let_through.issuperset(names)
        for name in names:
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / "src" / name)
    assert build(tmp_path / "src", tmp_path / "dist").members() == packages.members()


def test_the_metadata_say_what_a_registry_shows(packages: Packages) -> None:
    metadata = email.message_from_bytes(packages.members()[f"{INFO}/METADATA"])
    assert (metadata["Name"], metadata["Version"]) == ("wif-store", __version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    # Later ones are refused by tools that upload and are not of the same year.
    assert Version(metadata["Metadata-Version"]) <= Version("2.4")
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL"))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    classifiers = metadata.get_all("Classifier")
    assert not [line for line in classifiers if line.startswith("License")]  # SPDX says it
    lowest = re.fullmatch(r">=(3\.\d+)", metadata["Requires-Python"])
    versions = [line for line in classifiers if re.search(r":: 3\.\d+$", line)]
    assert lowest
    assert versions[0].endswith(f" {lowest[1]}")


def test_the_description_is_the_readme_with_links_that_lead_there(packages: Packages) -> None:
    """A page of a registry has no files beside it."""
    metadata = email.message_from_bytes(packages.members()[f"{INFO}/METADATA"])
    description = metadata.get_payload(decode=True).decode()
    found, expected = targets(description), targets(read("README.md"))
    assert len(found) == len(expected) > 10
    pages = f"https://github.com/whyitfailed/wif-store/blob/v{__version__}/"
    pictures = f"https://raw.githubusercontent.com/whyitfailed/wif-store/v{__version__}/"
    assert pictures + "docs/results/figure.png" in found
    assert pages + "CONTRIBUTING.md" in found
    for link, original in zip(found, expected, strict=True):
        assert link in (original, pages + original, pictures + original)
        assert link.startswith("https://")
    links = re.compile(r"\]\([^)]+\)")
    assert links.sub("", description).strip() == links.sub("", read("README.md")).strip()


def test_what_is_installed_runs_from_any_folder(installed: Environment) -> None:
    assert installed.output("wif-store", "--version") == f"wif-store {__version__}\n"
    assert "build" in installed.output("python", "-m", "wif_store", "--help")
    where = installed.output("python", "-c", "import wif_store; print(wif_store.__file__)")
    assert where.startswith(str(installed.folder))


def test_what_is_installed_opens_and_scores_a_store(installed: Environment, store: Path) -> None:
    opened(installed, store)
    scored(installed, store)


def opened(environment: Environment, store: Path) -> None:
    """Read a store in an environment; the numbers are those that are read here."""
    code = (
        "import sys, numpy, wif_store; store = wif_store.open_store(sys.argv[1]); "
        "X, success = store.read_final_token(1, 'test'); numpy.savez('read.npz', X=X, success=success)"
    )
    environment.output("python", "-c", code, store)
    X, success = open_store(store).read_final_token(1, "test")
    with np.load(environment.work / "read.npz") as read:
        assert np.array_equal(read["X"], X)
        assert np.array_equal(read["success"], success)


def scored(environment: Environment, store: Path, *more: str) -> None:
    """Score a layer that has sequences in an environment; the page and the figure are written."""
    environment.output("wif-store", "score", store, "--layers", "0", "--out", "results", *more)
    results = environment.work / "results"
    assert json.loads((results / "results.json").read_text(encoding="utf-8"))
    assert {"report.html", "figure.png"} <= {path.name for path in results.iterdir()}


def built(environment: Environment, rows: str, *arguments: str | Path, rows_kept: int = 8) -> None:
    """Build a small store in an environment, verify it there and read it here."""
    (environment.work / "rows.jsonl").write_text(rows, encoding="utf-8")
    command = ["build", "--source", "rows.jsonl", "--out", "built.zarr", "--per-class", "4", *arguments]
    environment.output("wif-store", *command)
    environment.output("wif-store", "verify", "built.zarr")
    assert len(open_store(environment.work / "built.zarr").examples()) == rows_kept


def winogrande() -> str:
    return "".join(json.dumps(row) + "\n" for row in tiny.rows())


def try_base(environment: Environment, store: Path) -> None:
    """Read and score; a build is one line that says what to install."""
    opened(environment, store)
    scored(environment, store)
    refused = environment.run(
        "wif-store", "build", "--task", "winogrande", "--model", "some/model", "--out", "o.zarr"
    )
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "pip install 'wif-store[build]'" in line
    assert not (environment.work / "o.zarr").exists()


def try_build(environment: Environment, store: Path) -> None:
    model = tiny.save_model("llama", environment.work / "model")
    built(environment, winogrande(), "--task", "winogrande", "--model", model)


def try_embedded(environment: Environment, store: Path) -> None:
    built(environment, winogrande(), "--task", "winogrande", "--model", "gemma3-270m", "--layers", "17")


def try_ray(environment: Environment, store: Path) -> None:
    model = tiny.save_model("llama", environment.work / "model")
    built(
        environment,
        winogrande(),
        "--task",
        "winogrande",
        "--model",
        model,
        "--engine",
        "ray",
        "--workers",
        "1",
    )


def try_harness(environment: Environment, store: Path) -> None:
    wrong = {f"distractor{n}": f"the {n} cat" for n in (1, 2, 3)}
    rows = [
        {"question": f"What is {n}?", **wrong, "correct_answer": f"dog {n}", "support": f"About {n}."}
        for n in range(60)
    ]
    model = tiny.save_model("llama", environment.work / "model")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    built(environment, text, "--task", "lm_eval/sciq", "--model", model)


def try_attention(environment: Environment, store: Path) -> None:
    scored(environment, store, "--probe", "attention")


def try_sae(environment: Environment, store: Path) -> None:
    """Train one on the sequences of the store, and score its features."""
    options = ["--layer", "0", "--out", "trained", "--width", "64", "--k", "4", "--tokens", "4096"]
    environment.output("wif-store", "sae", "train", store, *options)
    scored(environment, store, "--probe", "sae-logistic", "--sae", "trained")


TRIALS: dict[str, Callable[[Environment, Path], None]] = {
    "": try_base,
    "build": try_build,
    "embedded": try_embedded,
    "ray": try_ray,
    "harness": try_harness,
    "attention": try_attention,
    "sae": try_sae,
}


def test_every_extra_is_tried(packages: Packages) -> None:
    metadata = email.message_from_bytes(packages.members()[f"{INFO}/METADATA"])
    assert set(metadata.get_all("Provides-Extra")) == TRIALS.keys() - {""}


@pytest.mark.slow
@pytest.mark.parametrize("extra", TRIALS, ids=[extra or "base" for extra in TRIALS])
def test_an_empty_environment_takes_the_wheel(
    extra: str, packages: Packages, store: Path, tmp_path: Path
) -> None:
    environment = make_environment(tmp_path)
    wheel = f"{packages.wheel}[{extra}]" if extra else packages.wheel
    # torch at the version that is tested, in the build that the registry gives first.
    environment.install(wheel, *(("-r", ROOT / "requirements" / "torch.txt") if extra else ()))
    if not extra:
        assert environment.run("python", "-c", "import torch").returncode
    try:
        TRIALS[extra](environment, store)
    finally:
        shutil.rmtree(environment.folder)  # gigabytes


def test_one_version_and_one_date_are_named_everywhere() -> None:
    said = subprocess.run(
        [sys.executable, RELEASE, "check", f"v{__version__}"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    citation = yaml.safe_load(read("CITATION.cff"))
    assert str(citation["version"]) == __version__
    assert f"## {__version__} - {citation['date-released']}\n" in read("CHANGELOG.md")
    assert re.search(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)[1] == "Unreleased"


def copy_of_release(folder: Path) -> Path:
    """What ``release.py`` reads, for a test to change."""
    for name in (".ci/release.py", "CHANGELOG.md", "CITATION.cff", "wif_store/__init__.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder / ".ci" / "release.py"


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("CITATION.cff", "\nversion: ", "\nversion: 9.", "CITATION.cff says v9."),
        ("CITATION.cff", "date-released: 2", "date-released: 3", "the date in CHANGELOG.md"),
        ("wif_store/__init__.py", '__version__ = "', '__version__ = "9.', "wif_store/__init__.py says v9."),
        ("CHANGELOG.md", "## Unreleased", "## 9.0.0 - 2999-01-01", "CHANGELOG.md says v9.0.0"),
        ("CHANGELOG.md", f"## {__version__} ", "## 9.0.0 ", f"CHANGELOG.md has no section of v{__version__}"),
    ],
)
def test_a_tag_that_a_file_contradicts_is_refused(
    name: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    script = copy_of_release(tmp_path)
    path = tmp_path / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, "check", f"v{__version__}"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_notes_of_a_release_are_its_section() -> None:
    done = subprocess.run(
        [sys.executable, RELEASE, "notes", "v0.1.0"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("The first version.")
    assert "## " not in done.stdout.replace("### ", "")
    assert done.stdout.strip() in read("CHANGELOG.md")
