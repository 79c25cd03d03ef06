"""Settings from a TOML file: they are used, the command line wins, and what no command knows is refused."""

from __future__ import annotations

import pytest

from tests.support import tiny
from tests.support.command import run
from wif_store.store.reader import open_store


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_models):
    """A working folder with rows, and a file of settings for a build of them."""
    monkeypatch.chdir(tmp_path)
    tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(120))
    settings = f"""
        [build]
        task = "winogrande"
        model = "{tiny_models("llama")}"
        source = "rows.jsonl"
        per-class = 6
        dtype = "float32"
        out = "s.zarr"
    """
    (tmp_path / "build.toml").write_text(settings)
    project = settings.replace("[build]", "[tool.wif-store.build]").replace("per-class = 6", "per-class = 4")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n' + project)
    return tmp_path


def test_a_build_is_a_file(folder):
    done = run("--config", "build.toml", "build")
    assert done.returncode == 0, done.stderr
    assert open_store(folder / "s.zarr").manifest.selection["k"] == 6


def test_a_project_has_settings_of_its_own(folder):
    done = run("build")
    assert done.returncode == 0, done.stderr
    assert open_store(folder / "s.zarr").manifest.selection["k"] == 4


def test_the_command_line_wins_and_that_is_said(folder):
    done = run("--config", "build.toml", "-v", "build", "--per-class", "8")
    assert done.returncode == 0, done.stderr
    assert open_store(folder / "s.zarr").manifest.selection["k"] == 8
    assert "per-class = 6 of the file of settings is not used: the command line says otherwise" in done.stderr
    assert "dtype = 'float32' of the file of settings is used" in done.stderr


def test_quiet_leaves_results_and_errors(folder):
    done = run("-q", "build")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    again = run("-q", "build", "--per-class", "400")
    assert again.stderr.startswith("error: ")
    assert "examples" in run("-q", "info", "s.zarr").stdout
    # It is not kept for the next command of a process.
    assert "already built" in run("build").stderr


def test_a_group_of_commands_has_tables_below_it(folder):
    (folder / "sae.toml").write_text("[sae.train]\nlayer = 1\nout = 'saes'\nwidth = 0\n")
    done = run("--config", "sae.toml", "sae", "train", "absent.zarr")
    assert done.returncode == 2
    assert "Invalid value for '--width'" in done.stderr


WRONG = {
    "[build]\ntaks = 'winogrande'": "[build] has taks, which is no option of the command; did you mean task?",
    "[bulid]\ntask = 'x'": "[bulid] is for a command that there is not; did you mean build?",
    "[build]\nzzz = 1": "[build] has zzz, which is no option of the command; expected one of: adapter, ",
    "build = 3": "[build] is 3; expected a table of options",
    "[build]\ntask = ['a', 'b']": "[build]: task is ['a', 'b']; expected one value",
    "[build.task]\na = 1": "[build]: task is {'a': 1}; expected one value",
    "[sae.trian]\nlayer = 1": "[sae.trian] is for a command that there is not; did you mean train?",
    "[build": "cannot be read (",
    "x = " + "[" * 5000 + "]" * 5000: "cannot be read (",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_no_command_knows_is_refused_in_a_line(text, tmp_path):
    (tmp_path / "wrong.toml").write_text(text)
    done = run("--config", tmp_path / "wrong.toml", "info", "absent.zarr")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ") and WRONG[text] in line


def test_numbers_may_be_a_list(folder):
    (folder / "steer.toml").write_text("[steer]\nstrength = [0, 3]\n")
    done = run("--config", "steer.toml", "steer", "absent.zarr")
    assert "absent.zarr" in done.stderr
    (folder / "bytes.toml").write_bytes(b"\xff")
    assert "bytes.toml cannot be read" in run("--config", "bytes.toml", "info", "x.zarr").stderr


@pytest.mark.parametrize("text", ["[broken", "tool = 3", "\n"])
def test_a_project_that_is_not_ours_stops_nothing(text, folder):
    (folder / "pyproject.toml").write_text(text)
    done = run("build", "--help")
    assert done.returncode == 0 and "For a start" in done.stdout
    assert run("info", "absent.zarr").stderr.startswith("error: absent.zarr")
    (folder / "pyproject.toml").write_text("[tool]\nwif-store = 5\n")
    assert "[tool.wif-store] is 5; expected a table" in run("info", "absent.zarr").stderr


def test_a_file_that_is_not_there_is_refused(tmp_path):
    done = run("--config", tmp_path / "absent.toml", "info", "absent.zarr")
    assert done.stderr.startswith(f"error: {tmp_path / 'absent.toml'} cannot be read (")
