"""Real processes: interrupted training goes on, and help is quick because nothing heavy is imported."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

LOOKING = ("train", "demo", "models", "show", "data", "diagnose", "compare", "report")
USING = ("score", "sample", "reconstruct", "encode", "interpolate")


def wait_for_progress(process: subprocess.Popen, run: Path) -> None:
    """Until training has logged an epoch."""
    began = time.monotonic()
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < 120
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupted_training_goes_on(start, jensen, pictures, tmp_path, number, code, word):
    run = tmp_path / "a run"
    words = (
        "train",
        "vae",
        pictures,
        "latents=2",
        "encoder.hidden=[8]",
        "--batch-size",
        8,
        "--binarize",
        "dynamic",
    )
    process = start(*words, "--epochs", 100_000, "--out", run)
    wait_for_progress(process, run)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert f"{word}; go on with: jensen train vae" in err.splitlines()[-1]
    assert f"--out '{run}' --resume" in err
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    if number == signal.SIGTERM:  # fewer epochs than were done: nothing is lost, and it is said
        answer = jensen("train", "--out", run, "--resume", "--epochs", 1)
        assert answer.code == 0 and "--epochs 1 is less than what was done: all " in answer.err
        kept = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert kept[: len(steps)] == steps and len(kept) <= len(steps) + 1
        return

    epochs = steps[-1] // 6 + 100
    process = start("train", "--out", run, "--resume", "--epochs", epochs, "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert json.loads(out)["epochs"] == epochs
    after = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert after == sorted(set(after))
    assert after[-1] == 6 * epochs

    process = start("score", run, "--particles", 2, "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    json.loads(out)


def test_scores_say_that_training_has_not_finished(jensen, table, tmp_path):
    """On stderr and in JSON, until it has; 64 rows are 8 steps an epoch."""
    from jensen import train

    def stop(event) -> None:
        if event.step >= 20:
            raise KeyboardInterrupt

    out, told = tmp_path / "a run", "has not finished, it stands at step 20 of 80"
    settings = {"epochs": 10, "batch_size": 8, "layers": 1, "hidden": [4], "drop": ["kind", "n"], "out": out}
    with pytest.raises(KeyboardInterrupt):
        train("maf", table, listener=stop, **settings)
    answer = jensen("score", out, "--json")
    assert told in answer.err and f"jensen train --out '{out}' --resume" in answer.err
    assert json.loads(answer.out)["unfinished"] == "at step 20 of 80"
    for words in (("sample", out, "--out", tmp_path / "s.csv"), ("diagnose", out), ("report", out)):
        assert told in jensen(*words).err
    assert "Training has not finished" in (out / "report.html").read_text()
    train("maf", table, resume=True, **settings)
    answer = jensen("score", out, "--json")
    assert "finished" not in answer.err and json.loads(answer.out)["unfinished"] is None


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interrupted_choice_goes_on(start, jensen, table, tmp_path, number, code, word):
    def epochs() -> list[int]:
        return [json.loads(line)["epoch"] for line in (trial / "metrics.jsonl").read_text().splitlines()]

    out, trial = tmp_path / "a run", tmp_path / "a run.trials" / "1"
    words = ("choose", table, "--out", out, "--kind", "n=real", "--kind", "x=real", "--steps", 100_000)
    process = start(*words)
    wait_for_progress(process, trial)
    process.send_signal(number)
    told, err = process.communicate(timeout=60)
    assert (process.returncode, told) == (code, ""), err
    last, expected = err.splitlines()[-1], "--kind n=real --kind x=real --steps 100000 --resume"
    assert f"{word}; go on with: jensen choose {table} --out '{out}' {expected}" in last
    done, until = len(epochs()), time.monotonic() + 120
    process = start(*shlex.split(last.partition("jensen ")[2]))
    while len(epochs()) <= done:
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "" and process.returncode == code
    assert epochs() == sorted({*epochs()})  # none twice
    assert "expected one of them" in jensen(*words, "--resume", "--overwrite").err
    assert "a choice is under way" in jensen(*words).err


def test_an_interrupted_run_equals_the_uninterrupted_one(start, jensen, pictures, tmp_path):
    """Ctrl-C waits for the end of a step, so that what is resumed is exact."""
    from jensen.training.folder import load_tensors

    words = ("train", "vae", pictures, "latents=2", "encoder.hidden=[8]", "--batch-size", 8, "--epochs", 200)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert jensen(*words, "--out", whole, "--threads", 1).code == 0
    process = start(*words, "--out", parts, "--threads", 1)
    wait_for_progress(process, parts)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    if process.returncode == 130:  # else it was done before
        assert jensen("train", "--out", parts, "--resume").code == 0
    a, _ = load_tensors(whole / "model.safetensors")
    b, _ = load_tensors(parts / "model.safetensors")
    assert a.keys() == b.keys()
    assert all((a[name] == b[name]).all() for name in a)


def test_resume_of_another_model_is_refused(jensen, fails, ppca, table):
    answer = jensen("train", "vae", table, "--label", "kind", "--out", ppca, "--resume")
    fails(answer, 2, "ppca", "vae")
    answer = jensen("train", "ppca", table, "--label", "kind", "latents=2", "--out", ppca, "--resume")
    fails(answer, 2, "latents")
    answer = jensen("train", "--out", ppca, "--resume", "latents=2", "--lr", 0.5)
    fails(answer, 2, "latents is 1", "lr is 0.001")
    spec = yaml.safe_load((ppca / "spec.yaml").read_text())
    assert spec["settings"]["latents"] == 1


def test_resume_of_a_run_that_had_ended_says_so(jensen, ppca):
    answer = jensen("train", "--out", ppca, "--resume")
    assert answer.code == 0
    assert "had ended already" in answer.err


def test_importing_the_command_line_imports_nothing_heavy():
    script = "import sys, jensen.cli; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    for heavy in ("torch", "numpy", "pandas", "yaml", "pydantic", "PIL", "sklearn", "matplotlib"):
        assert heavy not in found


def test_help_answers_at_once(start):
    """By the processor's time, as other work may share the machine; the best of a few."""
    times = []
    for _ in range(5):
        began = os.times()
        process = start("--help")
        out, _ = process.communicate()
        ended = os.times()
        times.append(ended.children_user + ended.children_system - began.children_user - began.children_system)
        assert process.returncode == 0
        assert "train" in out
    assert 0 < min(times) < 0.5


@pytest.mark.parametrize(
    "command",
    [*LOOKING, *USING],
)
def test_every_command_has_help(jensen, command):
    answer = jensen(command, "--help")
    assert answer.code == 0
    assert "Usage" in answer.out


def test_version(jensen):
    from jensen import __version__

    assert jensen("--version").out.strip() == f"jensen {__version__}"
