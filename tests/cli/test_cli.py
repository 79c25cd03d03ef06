"""The command line: exit codes and messages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import wif_store
import wif_store.errors
from tests.support import tiny
from tests.support.command import build, run
from wif_store import open_store

COMMAND = [sys.executable, "-m", "wif_store.cli.app"]


@pytest.fixture(scope="module")
def store(tiny_models, rows_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "s.zarr"
    done = build(tiny_models("gemma2"), rows_file, out, "--per-class", "max", "--sequence-layers", "1,3")
    assert done.returncode == 0, done.stderr
    assert "successes and as many failures" in done.stderr
    return out


def test_build_verify_info_audit(store):
    verified = run("verify", store)
    assert verified.returncode == 0
    assert "every checksum holds" in verified.stdout
    told = run("info", store).stdout
    assert "winogrande" in told
    assert "layers 1, 3" in told
    assert "bfloat16" in told
    audited = dict(line.split(maxsplit=1)[::-1] for line in run("audit", store).stdout.splitlines())
    assert audited["groups of siblings that stand in more than one split"] == "0"
    assert audited["items that stand more than once"] == "0"


def test_the_list_of_commands_is_whole_sentences():
    commands = run("--help").stdout.partition("Commands:")[2].split("\n")[1:-1]
    assert len(commands) == 12
    assert all(line.endswith(".") and "..." not in line for line in commands)


def test_a_second_run_says_it_is_done(store, tiny_models, rows_file):
    again = build(tiny_models("gemma2"), rows_file, store, "--per-class", "max", "--sequence-layers", "1,3")
    assert again.returncode == 0
    assert "already built" in again.stderr


def test_an_unfinished_build_says_how_far_it_is_and_how_to_go_on(store, tiny_models, tmp_path):
    out = tmp_path / "u.zarr"
    rows = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(12))
    failed = build(tiny_models("gemma2"), rows, out, "--per-class", "400")
    assert failed.returncode == 1
    told = run("info", out)
    assert told.returncode == 1
    assert "is unfinished: winogrande with gemma2, 12 of 12 rows scored" in told.stdout
    assert "to go on: wif-store build --task winogrande" in told.stdout
    assert "--per-class 400" in told.stdout


def test_a_finished_build_is_known_before_its_model_is_loaded(store, tiny_models, rows_file, monkeypatch):
    from wif_store.extract import engine

    def load(*arguments, **options):
        pytest.fail("the model was loaded")

    monkeypatch.setattr(engine, "load", load)
    again = build(tiny_models("gemma2"), rows_file, store, "--per-class", "max", "--sequence-layers", "1,3")
    assert again.returncode == 0, again.stderr
    assert "already built" in again.stderr


def test_rows_beyond_the_context_are_left_out_and_counted(tiny_models, tmp_path):
    rows = tiny.rows(80)
    rows[2]["sentence"] = "After dinner, " * 300 + rows[2]["sentence"]
    source = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "s.zarr"
    done = build(tiny_models("llama"), source, out, "--per-class", "max", "--skip-too-long")
    assert done.returncode == 0, done.stderr
    assert "1 too long" in done.stderr
    assert 2 not in open_store(out).column("source_row").tolist()


def test_the_python_function_builds_the_same_store_and_opens_it(store, tiny_models, rows_file, tmp_path):
    given = {"source": str(rows_file), "per_class": "max", "sequence_layers": "1,3"}
    made = wif_store.build("winogrande", str(tiny_models("gemma2")), out=tmp_path / "s.zarr", **given)
    assert made.manifest == open_store(store).manifest
    with pytest.raises(wif_store.errors.TaskError, match="no task 'chess'"):
        wif_store.build("chess", str(tiny_models("gemma2")), out=tmp_path / "t.zarr", **given)


@pytest.mark.parametrize("protocol", ["mcq", "paper"])
def test_every_protocol_builds(protocol, tiny_models, rows_file, tmp_path):
    out = tmp_path / "s.zarr"
    done = build(tiny_models("llama"), rows_file, out, "--per-class", "max", "--protocol", protocol)
    if "the model gives every example the same outcome" in done.stderr:
        pytest.fail("the tiny model answers everything alike; choose another seed")
    assert done.returncode == 0, done.stderr
    assert run("verify", out).returncode == 0


def test_float32_batch_sizes_agree(tiny_models, rows_file, tmp_path):
    kept = []
    for size in ("1", "7", "32"):
        out = tmp_path / f"{size}.zarr"
        done = build(
            tiny_models("gemma2"),
            rows_file,
            out,
            "--per-class",
            "max",
            "--dtype",
            "float32",
            "--batch-size",
            size,
        )
        assert done.returncode == 0, done.stderr
        kept.append([(e.id, e.split, e.success, e.choice.prediction) for e in open_store(out).examples()])
    assert kept[0] == kept[1] == kept[2]


BAD = {
    "unknown task": (
        ["--task", "chess"],
        "no task 'chess'; expected one of: boolq, piqa, social_i_qa, winogrande",
    ),
    "unknown protocol": (
        ["--protocol", "guess"],
        "no protocol 'guess'; expected one of: aligned, mcq, cot, paper",
    ),
    "layer out of range": (["--layers", "0,4"], "--layers is '0,4': there is no layer 4"),
    "layers not understood": (["--layers", "x"], "--layers is 'x'"),
    "sequence layer out of range": (
        ["--sequence-layers", "9"],
        "--sequence-layers is '9': there is no layer 9",
    ),
    "no layer": (["--layers", "none"], "no layer is to be read"),
    "k out of reach": (["--per-class", "900"], "expected 450 in train, 225 in validation, 225 in test"),
    "k too small": (["--per-class", "3"], "leaves validation and test without a pair"),
    "k not a number": (["--per-class", "many"], "--per-class is 'many'; expected a positive number or max"),
    "device": (["--device", "abacus"], "cannot use device 'abacus'"),
    "no such folder": (["--model", "./nothing"], "no folder ./nothing"),
    "no such gguf": (["--model", "nothing.gguf"], "no file nothing.gguf"),
    "no such source": (["--source", "nothing.jsonl"], "no file or folder nothing.jsonl"),
    "no connection, model": (["--model", "google/gemma-2-2b"], "model google/gemma-2-2b cannot be fetched"),
    "no connection, source": (
        ["--source", "allenai/winogrande"],
        "dataset allenai/winogrande cannot be fetched",
    ),
    "chat template": (["--chat-template"], "--chat-template"),
    "template without a name": (["--template", "x"], "--template is 'x'; expected NAME=VALUE"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_an_exit_status(case, tiny_models, rows_file, tmp_path):
    options, message = BAD[case]
    given = {
        "--task": "winogrande",
        "--model": tiny_models("gemma2"),
        "--source": rows_file,
        "--out": tmp_path / "s.zarr",
        "--per-class": "max",
    }
    flags = options if len(options) == 1 else []
    given |= dict([options]) if len(options) == 2 else {}
    done = run("build", *(part for pair in given.items() for part in pair), *flags)
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_a_model_without_a_tokenizer(tiny_models, rows_file, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_models("llama") / name, folder)
    done = build(folder, rows_file, tmp_path / "s.zarr")
    assert done.returncode == 1
    assert "error: model model has no usable tokenizer" in done.stderr


def test_a_prompt_longer_than_the_context(tiny_models, tmp_path):
    rows = tiny.rows(4)
    rows[2]["sentence"] = "After dinner, " * 300 + rows[2]["sentence"]
    source = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    done = build(tiny_models("llama"), source, tmp_path / "s.zarr", "--per-class", "4")
    assert done.returncode == 1
    assert "the model reads at most 512" in done.stderr


def test_infinity_is_refused_at_the_source(tiny_models, rows_file, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    shutil.copytree(tiny_models("llama"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.mul_(1e6)
    model.save_pretrained(folder)
    done = build(folder, rows_file, tmp_path / "s.zarr", "--dtype", "float16")
    assert done.returncode == 1
    assert "the residual after layer 2 is not finite" in done.stderr
    assert "error: example winogrande-" in done.stderr


def test_an_encoder_decoder_is_refused(tiny_models, rows_file, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5", "architectures": []}))
    done = build(folder, rows_file, tmp_path / "s.zarr")
    assert done.returncode == 1
    assert "error: model model (t5) is an encoder-decoder" in done.stderr


def test_what_is_no_store(tmp_path):
    for command in ("info", "verify", "audit"):
        done = run(command, tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "is not a store" in done.stderr


def test_the_process_itself_ends_with_one_line_and_a_status(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*COMMAND, "verify", str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")


def test_verify_recomputes(store, tiny_models, rows_file):
    given = ("--model", tiny_models("gemma2"), "--source", rows_file)
    done = run("verify", store, "--recompute", "3", *given)
    assert done.returncode == 0, done.stderr
    assert "3 examples recomputed" in done.stdout.splitlines()[-1]
    without = run("verify", store, "--recompute", "3")
    assert without.returncode == 1
    assert without.stderr == "error: the store's model was the local gemma2: name its folder with --model\n"


def test_the_version_is_said():
    for command in ("--version",), ("steer", "--help"):
        done = subprocess.run(
            [sys.executable, "-m", "wif_store", *command], capture_output=True, text=True, check=True
        )
        assert "wif-store 0" in done.stdout or "--ablate" in done.stdout


CHOICES = {
    ("build", "--dtype"): ["bfloat16", "float32", "float16"],
    ("build", "--splits"): ["seeded", "published"],
    ("build", "--engine"): ["local", "ray"],
    ("score", "--sae-pool"): ["final", "mean", "max"],
    ("score", "--compare"): ["paper"],
    ("explain", "--sae-pool"): ["final", "mean", "max"],
    ("steer", "--at"): ["all", "final"],
}


@pytest.mark.parametrize(("command", "option"), CHOICES)
def test_an_option_of_few_words_shows_them_and_takes_no_other(command, option):
    words = CHOICES[command, option]
    assert f"{option} <{'|'.join(words)}>" in " ".join(run(command, "--help").stdout.split())
    refused = run(command, "x", option, "other")
    assert refused.returncode == 2
    expected = f"'other' is not one of {', '.join(map(repr, words))}."
    assert refused.stderr.startswith(f"error: Invalid value for '{option}': ")
    assert refused.stderr.endswith(f"{expected}\n")
    assert refused.stderr.count("\n") == 1


def test_the_words_are_those_that_the_program_knows():
    from wif_store.cli import choices
    from wif_store.extract.intervention import At
    from wif_store.extract.model import DTYPES
    from wif_store.scorer.sae_features import Pool

    assert get_args(choices.Dtype) == tuple(DTYPES)
    assert choices.Pool == Pool
    assert choices.At == At


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"splits": "mine"}, "--splits is 'mine'; expected seeded or published"),
        ({"engine": "spark"}, "--engine is 'spark'; expected local or ray"),
        ({"dtype": "int4"}, "dtype 'int4' is not known"),
    ],
)
def test_python_refuses_other_words_too(given, message, tiny_models, rows_file, tmp_path):
    with pytest.raises(wif_store.errors.WifError, match=message):
        wif_store.build(
            "winogrande", tiny_models("llama"), source=rows_file, out=tmp_path / "s.zarr", **given
        )


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("wif-store st", ["steer"]),
        ("wif-store build --dtype f", ["float32", "float16"]),
        ("wif-store build --task w", ["winogrande"]),
        ("wif-store build --model g", ["gemma3-270m", "google/gemma-2-2b"]),
        ("wif-store build --source b", ["builtin"]),
        ("wif-store build --protocol c", ["cot"]),
        ("wif-store score --probe sae", ["sae-logistic", "sae-k"]),
    ],
)
def test_a_shell_completes(typed, completed):
    count = str(len(typed.split()) - 1)
    asked = {"COMP_WORDS": typed, "COMP_CWORD": count, "_WIF_STORE_COMPLETE": "complete_bash"}
    script = "import sys; sys.argv[0] = 'wif-store'; from wif_store.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | asked, check=False
    )
    assert done.stdout.split() == completed


def test_a_build_into_a_log_names_its_phases(tiny_models, rows_file, tmp_path):
    done = build(tiny_models("llama"), rows_file, tmp_path / "s.zarr", "--per-class", "max")
    assert done.returncode == 0
    said = done.stderr.splitlines()
    assert "auditing" in said
    assert "\x1b" not in done.stderr
