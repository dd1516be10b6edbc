"""Outputs are checked before the work, written whole or not at all, and printed anywhere."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from support.commands import TINY, picture, typed

from pyro_vae import compare, comparison, figures
from pyro_vae.runs.folder import read_history
from pyro_vae.storage.writing import written

PNG = ("sample", "reconstruct", "interpolate")


def outputs(trained):
    """Each command that writes an output, without the value of its last option."""
    commands = {name: [name, trained, "--out"] for name in (*PNG, "encode", "score")}
    compare = ["compare", "--guides", "mean-field", "--data", "digits", "--out"]
    return commands | {
        "evaluate": ["evaluate", trained, "--figures"],
        "compare": compare,
        "scales": ["scales", "--quick", "--only", "sign", "--out"],
        "train": [*TINY, "--out"],
    }


FOLDERS = ("evaluate", "compare", "scales", "train")
FILES = (*PNG, "encode", "score")


@pytest.fixture
def no_work(monkeypatch):
    """Every command fails if it loads a run, loads data or measures something."""

    def fail(*args, **kwargs):
        raise AssertionError("the work began before the output was checked")

    monkeypatch.setattr("pyro_vae.runs.folder.load_run", fail)
    monkeypatch.setattr("pyro_vae.runs.setup.prepare", fail)
    monkeypatch.setattr("pyro_vae.compare.compare", fail)
    monkeypatch.setattr("pyro_vae.log_variance_study.run", fail)


def refused(command, value, capsys):
    """The error of a command with this output, after the checks that hold for all of them."""
    assert typed([*command, value]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"Error: {command[-1]} ")
    return said


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", FILES)
def test_a_file_needs_an_ending_that_the_writer_can_write(name, trained, tmp_path, capsys):
    for wrong in ("noext", "file.svg", "file.png.txt"):
        said = refused(outputs(trained)[name], tmp_path / wrong, capsys)
        assert "needs a name that ends in ." in said
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_a_place_that_cannot_be_written_is_refused_first(name, trained, tmp_path, capsys):
    ending = {"encode": ".npz", "score": ".csv"}.get(name, ".png")
    command = outputs(trained)[name]
    (tmp_path / "file").write_text("")
    for wrong in (f"file/out{ending}", f"{'n' * 300}{ending}", f"{'n' * 300}/out{ending}"):
        assert "cannot be written" in refused(command, tmp_path / wrong, capsys)
    assert "cannot be written" in refused(command, f"/proc/new/out{ending}", capsys)
    if name in FILES:
        (tmp_path / f"folder{ending}").mkdir()
        assert "is a folder; name a file" in refused(command, tmp_path / f"folder{ending}", capsys)
    elif name != "compare":
        assert "is a file; name a folder" in refused(command, tmp_path / "file", capsys)
    assert len(list(tmp_path.iterdir())) == 1 + (name in FILES)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_read_only_folder_is_refused(trained, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "cannot be written" in refused(["sample", trained, "--out"], tmp_path / "a.png", capsys)


@pytest.mark.parametrize("ending", ["png", "JPG", "webp", "bmp", "gif", "tiff", "pdf"])
def test_every_ending_of_a_picture_can_be_written(ending, trained, tmp_path):
    out = tmp_path / "new" / "folder" / f"picture.{ending}"
    assert typed(["sample", trained, "--n", "2", "--out", out]) == 0
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert out.stat().st_size > 100


def test_an_output_that_fails_leaves_the_old_file(tmp_path):
    out = tmp_path / "numbers.txt"
    out.write_text("old")

    def fill(part):
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left") as error, written(out) as part:
        fill(part)
    assert error.value.filename == str(out)
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.txt"]


def test_a_failed_picture_is_one_sentence(trained, tmp_path, capsys, monkeypatch):
    def full(images, path, columns, caption):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "save_grid", full)
    out = tmp_path / "picture.png"
    assert typed(["sample", trained, "--out", out]) == 1
    said = capsys.readouterr().err
    assert said == f"Error: {str(out)!r} cannot be read or written (No space left on device)\n"
    assert not list(tmp_path.iterdir())


def test_a_comparison_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compare, "compare", lambda *args, **kwargs: ([{}], []))
    monkeypatch.setattr(comparison, "write", fail)
    ask = ["compare", "--guides", "mean-field", "--data", "digits"]
    assert typed([*ask, "--out", tmp_path / "comparison"]) == 1
    assert not list(tmp_path.iterdir())


def test_figures_are_added_to_a_folder(trained, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert typed(["evaluate", trained, "--samples", "2", "--figures", tmp_path]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"notes.txt", "draws.png", "latents.png"} < names
    assert not any(name.startswith(".") for name in names)


def test_a_name_that_is_not_utf8_is_refused(trained, tmp_path, capsys):
    name = os.fsdecode(b"b\xff")
    said = refused(["train", "--data", "digits", "--out"], tmp_path / name, capsys)
    assert "not UTF-8" in said
    (tmp_path / name).mkdir()
    assert typed(["sample", tmp_path / name]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_brackets_in_a_path_are_printed_as_they_are(trained, tmp_path, capsys):
    out = tmp_path / "[red]:smile:" / "a.png"
    assert typed(["sample", trained, "--n", "2", "--out", out]) == 0
    assert str(out) in capsys.readouterr().out.replace("\n", "")


FULL = "import sys; from pyro_vae.cli import main; sys.argv = ['pyro-vae', *sys.argv[1:]]; main()"


def run_alone(*arguments, **options):
    """Run the command line in a process of its own."""
    code = [sys.executable, "-c", FULL, *map(str, arguments)]
    return subprocess.run(code, stderr=subprocess.PIPE, **options)


def test_a_full_output_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = run_alone("list", "data", stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"Error: the output cannot be written (No space left on device)\n"


def test_an_ascii_terminal_gets_question_marks():
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run_alone("list", "scales", stdout=subprocess.PIPE, env=env)
    assert done.returncode == 0, done.stderr
    assert b"?" in done.stdout


def test_a_file_in_the_current_folder_replaces_no_module(tmp_path):
    for name in ("typing_extensions", "rich", "pyro_vae"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
    here = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(compare.__file__))}
    code = "import sys; del sys.path[0]; " + FULL
    done = subprocess.run([sys.executable, "-c", code, "list"], cwd=tmp_path, env=here)
    assert done.returncode == 0


def test_an_interrupted_training_says_how_to_continue(tmp_path, capsys, monkeypatch):
    from pyro_vae.runs.working import Keeper

    on_step = Keeper.on_step
    monkeypatch.setattr(
        Keeper, "on_step", lambda *args: (os.kill(os.getpid(), signal.SIGINT), on_step(*args))
    )
    run = tmp_path / "my run"
    assert typed([*TINY, "--epochs", "3", "--device", "cpu", "--out", run]) == 130
    said = capsys.readouterr().err
    again = f"pyro-vae train --resume '{run}' --device cpu"
    assert said == f"Stopped. The run is in {run}; continue it with: {again}\n"
    monkeypatch.undo()
    assert typed(["train", "--resume", run]) == 0
    assert [e.epoch for e in read_history(run)] == [1, 2, 3]


def test_a_recipe_says_what_it_sets(tmp_path, capsys):
    ask = [*TINY, "--recipe", "wae-rbf", "--objective", "analytic", "--epochs", "1"]
    assert typed([*ask, "--out", tmp_path / "run"]) == 0
    assert "recipe wae-rbf sets likelihood = normal\n" in capsys.readouterr().out


def test_images_of_mixed_sizes_are_resized_in_every_command(tmp_path):
    from support.pictures import save

    random = np.random.RandomState(0)
    folder, run = tmp_path / "mixed", tmp_path / "run"
    for part, count in (("train", 12), ("test", 4), ("val", 3)):
        for i in range(count):
            size = (6 + i % 3, 9, 3)
            save(folder / part / f"{i}.png", random.randint(256, size=size, dtype=np.uint8))
    ask = ["train", "--data", folder, "--size", "6x5", "--crop", "--grey", "--epochs", "1"]
    assert typed([*ask, "--likelihood", "normal", "--hidden", "8", "--out", run]) == 0
    assert typed(["train", "--resume", run, "--epochs", "2"]) == 0
    out = tmp_path / "z.npz"
    for data in ([], ["--data", folder]):
        for split, count in (("all", 19), ("validation", 3)):
            assert typed(["encode", run, *data, "--split", split, "--out", out]) == 0
            assert len(np.load(out)["loc"]) == count
    assert typed(["reconstruct", run, "--split", "validation", "--out", tmp_path / "r.png"]) == 0
    assert picture(tmp_path / "r.png").ndim == 3
