"""Whatever goes wrong: one message on stderr, the right exit code, nothing on stdout, nothing harmed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def broken(vae, tmp_path) -> Path:
    """A copy of a run, to be broken."""
    return Path(shutil.copytree(vae, tmp_path / "broken"))


# Usage: 2


def test_a_command_that_is_not_there(jensen):
    answer = jensen("trian")
    assert answer.code == 2
    assert "train" in answer.err


def test_an_option_that_is_not_there(jensen, table):
    answer = jensen("train", "ppca", table, "--epoch", 3)
    assert answer.code == 2
    assert "--epochs" in answer.err


def test_unknown_model(jensen, fails, table, tmp_path):
    fails(
        jensen("train", "vea", table, "--out", tmp_path / "r"),
        2,
        "'vea' is not a model",
        "did you mean 'vae'?",
    )


def test_unknown_data(jensen, fails, tmp_path):
    answer = jensen("train", "vae", "mnist5k", "--out", tmp_path / "r")
    fails(answer, 2, "'mnist5k'", "did you mean 'mnist-5k'?")


def test_missing_arguments(jensen, fails, table):
    fails(jensen("train"), 2, "MODEL", "DATA", "--out")
    fails(jensen("train", "vae", table), 2, "--out is missing")
    fails(jensen("train", "vae", "--out", "r"), 2, "DATA missing")


def test_all_problems_are_told_at_once(jensen, fails, pictures, tmp_path):
    words = (
        "foo",
        "=3",
        "latent=3",
        "latents=0",
        "latents=4",
        "encoder=mpl",
        "train.clipp=3",
        "decoder.hidden=[1",
    )
    answer = jensen("train", "vae", pictures, *words, "--lr", -1, "--out", tmp_path / "r")
    fails(
        answer, 2, "'foo': expected key=value", "'=3'", "did you mean 'latents'?", "latents: given twice",
        "did you mean 'mlp'?", "did you mean 'clip'?", "decoder.hidden: cannot read '[1'", "--lr: expected float, > 0",
    )  # fmt: skip
    assert "error: 10 problems:" in answer.err
    assert not (tmp_path / "r").exists()


def test_problems_of_a_file_name_its_line(jensen, fails, table, tmp_path):
    config = tmp_path / "c.yaml"
    words = ("train", "ppca", table, "--drop", "kind", "--config", config, "--out", tmp_path / "r")
    fails(jensen(*words), 2, "c.yaml", "no such file")
    config.write_text("latents: 1\nfit: [em\nx: 2\n")
    fails(jensen(*words), 2, "c.yaml, line 3")
    config.write_text("- 1\n")
    fails(jensen(*words), 2, "c.yaml", "key: value")
    config.write_text("latents: 1\n\nfitt: em\ntrain:\n  lr: fast\n")
    fails(jensen(*words), 2, "c.yaml, line 3", "did you mean 'fit'?", "c.yaml, line 5")
    config.write_text("latents: 1\nlatents: 2\n")
    fails(jensen(*words), 2, "c.yaml, line 2", "twice")
    config.write_bytes(b"\xff\xfe\x00latents")
    fails(jensen(*words), 2, "no text file")


def test_an_existing_run_is_refused(jensen, fails, ppca, table):
    before = (ppca / "model.safetensors").read_bytes()
    answer = jensen("train", "ppca", table, "--label", "kind", "--out", ppca)
    fails(answer, 2, "exists", "--resume", "--overwrite")
    assert (ppca / "model.safetensors").read_bytes() == before


def test_a_folder_that_is_no_run_is_not_overwritten(jensen, fails, table, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    answer = jensen("train", "ppca", table, "--drop", "kind", "latents=1", "--out", tmp_path, "--overwrite")
    fails(answer, 2, "not a run folder")
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_a_run_that_is_not_there(jensen, fails, tmp_path):
    fails(jensen("score", tmp_path / "nowhere"), 2, "no run folder")
    fails(jensen("sample", tmp_path, "--out", "-"), 2, "not a run folder")


def test_options_of_jobs_are_checked(jensen, fails, vae, tmp_path):
    fails(jensen("score", vae, "--estimator", "iww"), 2, "did you mean 'iw'?")
    fails(jensen("score", vae, "--particles", 0), 2, "--particles")
    fails(jensen("score", vae, "--limit", 0), 2, "--limit")
    fails(jensen("sample", vae, "-n", 0, "--out", tmp_path / "s.npy"), 2, "-n")
    fails(jensen("sample", vae, "--temperature", 0, "--out", tmp_path / "s.npy"), 2, "--temperature")
    fails(jensen("interpolate", vae, "--how", "straight", "--out", tmp_path / "s.npy"), 2, "linear")
    fails(jensen("score", vae, "--split", "tset"), 3, "did you mean 'test'?")
    fails(jensen("compare", vae), 2, "two runs")


def test_files_that_cannot_hold_the_result(jensen, fails, vae, ppca, tmp_path):
    fails(jensen("sample", vae, "--out", tmp_path / "s.gif"), 2, ".png")
    fails(jensen("sample", ppca, "--out", tmp_path / "s.png"), 2, "holds pictures")
    fails(jensen("encode", vae, "--out", tmp_path / "s.png"), 2, ".npy")
    (tmp_path / "d.npy").mkdir()
    fails(jensen("sample", vae, "--out", tmp_path / "d.npy"), 2, "folder")


def test_a_device_that_is_not_there(jensen, fails, vae, table, tmp_path):
    fails(jensen("score", vae, "--device", "quantum"), 2, "device")


def test_runs_on_other_data_are_not_compared(jensen, fails, vae, ppca):
    fails(jensen("compare", ppca, vae), 2, "scores compare only on the same data")


# Data: 3


def test_gaps_name_the_column(jensen, fails, tmp_path):
    path = tmp_path / "gaps.csv"
    path.write_text("a,b\n" + "1,2\n" * 5 + "3,\n" + "1,2\n" * 20)
    fails(jensen("train", "ppca", path, "--out", tmp_path / "r"), 2, "'b'", "empty cells")
    assert not (tmp_path / "r").exists()


def test_corrupt_data(jensen, fails, pictures, tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(pictures.read_bytes()[:200])
    fails(jensen("data", path), 3, "x.npz")
    path.write_bytes(b"")
    fails(jensen("data", path), 3, "x.npz")


def test_stdin_errors_speak_of_stdin(jensen, fails, ppca):
    fails(jensen("score", ppca, "-", stdin=b""), 3, "stdin")
    fails(jensen("score", ppca, "-", stdin=b"x,y,n\n1,2,3\n1,,3\n"), 3, "stdin")


def test_data_of_another_shape(jensen, fails, vae, ppca, tmp_path):
    np.savez(tmp_path / "big.npz", X=np.zeros((4, 7, 7), np.uint8))
    fails(jensen("score", vae, tmp_path / "big.npz"), 3)
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    fails(jensen("score", ppca, tmp_path / "t.csv"), 3, "columns missing", "n")


def test_a_label_column_that_is_not_there(jensen, fails, table):
    answer = jensen("data", table, "--label", "kinds")
    fails(answer, 2, "'kinds'", "did you mean 'kind'?")


# Capability: 4


def test_an_autoencoder_has_no_score_and_says_why(jensen, fails, autoencoder):
    fails(jensen("score", autoencoder), 4, "no likelihood", "deterministic")
    fails(jensen("sample", autoencoder, "--out", "-"), 4, "cannot sample")


def test_exact_is_refused_where_there_is_a_bound(jensen, fails, vae):
    fails(jensen("score", vae, "--estimator", "exact"), 4, "--estimator iw")


# Integrity: 5


@pytest.mark.parametrize("fault", ["flipped", "truncated", "empty", "missing header"])
def test_corrupt_weights(jensen, fails, broken, fault):
    path = broken / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {
            "flipped": b"\xff" * 8 + content[8:],
            "truncated": content[: len(content) // 2],
            "empty": b"",
            "missing header": content[100:],
        }[fault]
    )
    fails(jensen("score", broken), 5, "model.safetensors")


def test_corrupt_records(jensen, fails, broken):
    spec = (broken / "spec.yaml").read_text()
    for text in ("model: [", "", "format: 1\nmodel: vae\n", spec.replace("latents: 2", "latents: 3"), "\x00"):
        (broken / "spec.yaml").write_text(text)
        fails(jensen("score", broken), 5)
    (broken / "spec.yaml").write_text(spec)
    (broken / "schema.json").write_text("{")
    fails(jensen("sample", broken, "--out", "-"), 5, "schema.json")


def test_corrupt_state_refuses_to_resume(jensen, fails, broken):
    (broken / "state" / "trainer.safetensors").write_bytes(b"x" * 100)
    fails(jensen("train", "--out", broken, "--resume"), 5, "trainer.safetensors")


def test_training_data_that_changed(jensen, fails, trained, table, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(table.read_text())
    out = tmp_path / "r"
    assert jensen("train", "ppca", path, "latents=1", "--label", "kind", "--out", out).code == 0
    path.write_text(table.read_text().replace("x,y,n,kind\n", "x,y,n,kind\n9,9,9,a\n"))
    fails(jensen("score", out), 5, "has changed")


# The machine


def test_a_full_disk_leaves_no_half_file(jensen, fails, vae, tmp_path, monkeypatch):
    out = tmp_path / "s.npy"
    out.write_text("old")
    full_disk(monkeypatch)
    fails(jensen("sample", vae, "--out", out), 1, "disk full", str(out))
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["s.npy"]


def test_a_full_disk_in_training(jensen, fails, table, tmp_path, monkeypatch):
    full_disk(monkeypatch)
    answer = jensen("train", "ppca", table, "latents=1", "--label", "kind", "--out", tmp_path / "r")
    fails(answer, 1, "disk full")


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(start):
    with open("/dev/full", "w") as full:
        process = start("data", "--json", stdout=full)
        _, err = process.communicate()
    assert process.returncode == 1, err
    assert "disk full" in err
    assert "Traceback" not in err


def test_a_place_that_cannot_be_written(jensen, fails, vae, table, tmp_path):
    (tmp_path / "file").write_text("x")
    fails(jensen("sample", vae, "--out", tmp_path / "file" / "s.npy"), 2, str(tmp_path / "file"))
    answer = jensen("train", "ppca", table, "latents=1", "--label", "kind", "--out", tmp_path / "file")
    fails(answer, 2, "is a file")


def test_a_reader_that_goes_away_is_no_error(start):
    with start("data", "--json") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_what_nobody_expected_is_one_line(jensen, fails, monkeypatch):
    def surprise() -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("jensen.jobs.models.table", surprise)
    answer = jensen("models")
    fails(answer, 1, "unexpected ZeroDivisionError: division by zero", "JENSEN_TRACEBACK=1")


def test_what_cannot_be_trained_leaves_nothing_behind(jensen, fails, table, tmp_path):
    out = tmp_path / "r"
    wrong = "posterior=full", "objective=beta-tcvae", "latents=2", "--epochs", 1
    fails(jensen("train", "vae", table, "--out", out, *wrong), 2, "beta-tcvae")
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    fails(jensen("train", "vae", table, "--out", out / "in", *wrong), 2, "beta-tcvae")
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_distance_from_the_prior_is_not_called_a_bound(jensen, table, tmp_path):
    found = jensen("train", "vae", table, "--out", tmp_path / "r", "objective=mmd", "latents=2", "--epochs", 1)
    assert found.code == 0 and "best validation matched" in found.out and "bound" not in found.out
