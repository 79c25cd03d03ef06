"""The notebooks of ``examples`` run as they stand, in a kernel, against a loopback Hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from huggingface_hub import HfApi
from nbclient import NotebookClient

from tests.support import tiny
from tests.support.stores import make_store
from wif_store.hub.push import push_stores

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.hub import Hub

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("build_your_own.ipynb", "quickstart.ipynb")
REPO = "me/my-acts"
TAGS = re.compile(r"<[^>]+>")


class Ran:
    """A notebook that was executed: what came out of the cell that has a word."""

    def __init__(self, notebook: Any) -> None:
        self.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def outputs(self, word: str) -> list[Any]:
        """The outputs of the one cell that has this word."""
        [cell] = [cell for cell in self.cells if word in cell.source]
        return cell.outputs

    def text(self, word: str) -> str:
        """What a person reads below that cell: of a bar, what it shows at the end."""
        shown = []
        for output in self.outputs(word):
            data = output.get("data", {})
            html = TAGS.sub("", data.get("text/html", ""))
            shown.append((html or data.get("text/plain") or output.get("text", "")).strip())
        return "\n".join(shown)

    def table(self, word: str) -> list[list[str]]:
        """The rows of the table below that cell, without the numbers in front."""
        [html] = [o.data["text/html"] for o in self.outputs(word) if "<table" in str(o.get("data"))]
        rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
        return [cells for row in rows if (cells := re.findall(r"<td>(.*?)</td>", row, re.DOTALL))]


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Callable[..., Ran]:
    """Execute a notebook in an empty folder and in a kernel that knows this Hub alone."""

    def run(name: str, edit: Callable[[str], str] = str, **environment: str) -> Ran:
        notebook = nbformat.read(EXAMPLES / name, as_version=4)
        for cell in notebook.cells:
            cell.source = edit(cell.source) if cell.cell_type == "code" else cell.source
        folder = tmp_path / "empty"
        folder.mkdir()
        env = hub.environ(
            hub.add_account("me"),
            PYTHONPATH=str(EXAMPLES.parent),
            IPYTHONDIR=str(tmp_path / "ipython"),
            JUPYTER_RUNTIME_DIR=str(tmp_path / "runtime"),
            # What the Hub's clients draw by themselves, and what tqdm says where ipywidgets are missing.
            HF_HUB_DISABLE_PROGRESS_BARS="1",
            HF_DATASETS_DISABLE_PROGRESS_BARS="1",
            PYTHONWARNINGS="ignore:IProgress not found",
            **environment,
        )
        client = NotebookClient(
            notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        ran = Ran(client.execute(env=env))
        assert [cell.execution_count for cell in ran.cells] == list(range(1, len(ran.cells) + 1))
        for cell in ran.cells:
            assert [o.text for o in cell.outputs if o.get("name") == "stderr"] == [], cell.source
        return ran

    return run


def test_every_notebook_is_run_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("**/*.ipynb")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_without_outputs(name: str) -> None:
    content = (EXAMPLES / name).read_text(encoding="utf-8")
    notebook = json.loads(content)
    nbformat.validate(notebook)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert not re.search(r"127\.0\.0\.1|localhost|HF_ENDPOINT", content)


@pytest.mark.hub
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # the Hub's client's own
def test_the_quickstart_measures_a_probe(hub: Hub, run: Callable[..., Ran], tmp_path: Path) -> None:
    store = make_store(tmp_path / "winogrande.zarr", per_class=200, layers=18, signal=2.0)
    push_stores(store, "whyitfailed/gemma2-acts", api=HfApi(endpoint=hub.endpoint, token=hub.token))
    # With torch at hand `datasets` imports it, which takes seconds. The quickstart does without.
    ran = run("quickstart.ipynb", USE_TORCH="0")
    shapes = ["train (200, 64)", "validation (100, 64)", "test (100, 64)"]
    assert ran.text("read_final_token").splitlines() == shapes
    assert ran.text("load_dataset(") == "True"
    measured = {method: tuple(map(float, found)) for method, *found in ran.table("evaluate(")}
    assert list(measured) == ["my probe", "confidence", "prompt-length", "tf-idf"]
    auroc, low, high = measured["my probe"]
    assert 0.7 < low < auroc < high <= 1
    assert measured["confidence"][0] < 0.7
    worst = ran.table("results.shown")
    assert len(worst) == 5
    assert all((success == "1") == (answer == expected) for success, _, answer, expected, _ in worst)
    assert re.search(r"winogrande ━+ 4/4 fits 0:00:00", ran.text("plt.plot"))
    [figure] = [o for o in ran.outputs("plt.plot") if "image/png" in o.get("data", {})]
    assert len(figure.data["image/png"]) > 10_000


@pytest.mark.hub
@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_a_store_is_built_and_published(
    hub: Hub, run: Callable[..., Ran], tiny_models: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(240))
    at_hand = {'"gemma3-270m"': repr(str(tiny_models("gemma3"))), '"builtin"': repr(str(rows))}

    def with_what_is_at_hand(code: str) -> str:
        for written, replaced in at_hand.items():
            code = code.replace(written, replaced)
        return code

    ran = run("build_your_own.ipynb", with_what_is_at_hand, WIF_STORE_REPO=REPO)
    check_built(ran, layers=4)
    bar, address, store = ran.text("wif_store.push").splitlines()
    assert re.fullmatch(r"uploading ━+ ([\d.]+)/\1 [kM]B 0:00:00", bar)
    assert address == f"{hub.endpoint}/datasets/{REPO}"
    assert store.startswith(f"<ActivationStore hf://datasets/{REPO}/zarr/winogrande.zarr: winogrande, 32 ")
    assert b"winogrande" in hub.repo(REPO).read("zarr/winogrande.zarr/manifest.json")


@pytest.mark.slow
@pytest.mark.hub
def test_a_store_of_the_embedded_model_is_built(run: Callable[..., Ran]) -> None:
    ran = run("build_your_own.ipynb")
    check_built(ran, layers=18)
    assert ran.outputs("wif_store.push") == []


def check_built(ran: Ran, layers: int) -> None:
    """Both stores are there, with bars that came to their ends, and one is scored."""
    for word, examples in (('build("winogrande"', 32), ('build("numbers.jsonl"', 16)):
        bar, store = ran.text(word).splitlines()
        assert re.fullmatch(r"\w+ ━+ (\d+)/\1 examples 0:00:00", bar)
        assert f", {examples} examples, {layers} layers, " in store
    methods = [method for method, *_ in ran.table("wif_store.score")]
    assert methods == ["logistic", "confidence", "prompt-length", "tf-idf"]
