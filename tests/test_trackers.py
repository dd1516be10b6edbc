"""TensorBoard, MLflow and Weights & Biases get what training says, read back from their stores."""

import json
import struct
import time

import numpy as np
import pytest
from support.commands import TINY, picture, typed

from pyro_vae import VAE, InputError, fit, load_data
from pyro_vae.runs.folder import read_history
from pyro_vae.trackers import MLflow, TensorBoard, WandB, chosen
from pyro_vae.trackers.base import numbers_of

MEASURED = {f"validation_{name}" for name in ("elbo", "reconstruction", "kl")}
NAMES = {"loss", "train_elbo", "seconds", "kl/z"} | MEASURED


@pytest.fixture(scope="module")
def data():
    return load_data("digits", binarize="threshold")


def small(data):
    return VAE(data.shape, 2, hidden=(8,))


def read_events(folder):
    """The events that TensorBoard reads from a folder."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return events.EventAccumulator(str(folder), {"images": 0, "tensors": 0}).Reload()


def test_tensorboard_reads_the_numbers_the_pictures_and_the_configuration(data, tmp_path):
    pytest.importorskip("tensorboard")
    vae = small(data)
    few = data.test.first(12)
    tracker = TensorBoard(tmp_path, vae, few, config={"lr": 1e-3}, every=2)
    history = fit(vae, data, epochs=3, compiled=False, callback=tracker)
    events = read_events(tmp_path)
    assert set(events.Tags()["scalars"]) == NAMES
    for name in NAMES:
        wanted = [(e.epoch, np.float32(numbers_of(e)[name])) for e in history]
        assert [(s.step, s.value) for s in events.Scalars(name)] == wanted
    for name in ("reconstructions", "samples"):
        assert [image.step for image in events.Images(name)] == [2, 3]
    image = events.Images("reconstructions")[0]
    assert (image.width, image.height) == (
        12 * 58 + 2,
        2 * 58 + 2,
    )  # 8 pixels, seven times as large
    (text,) = events.Tensors("configuration/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert json.loads(shown.removeprefix("```json").removesuffix("```")) == {
        "vae": json.loads(json.dumps(vae.config)),
        "lr": 1e-3,
    }


def test_mlflow_has_a_finished_run_in_its_store(data, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    monkeypatch.chdir(tmp_path)  # where the artifacts of a new experiment are
    uri = f"sqlite:///{tmp_path}/store.db"
    vae = small(data)
    tracker = MLflow(
        vae, data.test.first(12), uri=uri, run="mine", config={"training": {"lr": 0.1}}
    )
    history = fit(vae, data, epochs=2, compiled=False, callback=tracker)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("pyro-vae")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert run.data.params["training.lr"] == "0.1"
    assert run.data.params["vae.guide"] == "mean-field"
    for name in NAMES:
        told = client.get_metric_history(run.info.run_id, name)
        assert [(m.step, m.value) for m in told] == [
            (e.epoch, numbers_of(e)[name]) for e in history
        ]
    for name in ("reconstructions", "samples"):
        (file,) = client.list_artifacts(run.info.run_id, name)
        assert file.path == f"{name}/epoch_0002.png"
        assert picture(client.download_artifacts(run.info.run_id, file.path)).shape[2] == 3


def records(file):
    """The records of an offline run of Weights & Biases, a file of the format of LevelDB's logs."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    bytes_, place, whole = file.read_bytes(), 7, b""  # after the header
    while place + 7 <= len(bytes_):
        if (left := 32768 - place % 32768) < 7:  # no record begins in the end of a block
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", bytes_[place : place + 7])
        whole += bytes_[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = pb.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb_has_the_run_in_its_offline_file(data, tmp_path):
    pytest.importorskip("wandb")
    vae = small(data)
    tracker = WandB(
        vae, data.test.first(12), folder=tmp_path, mode="offline", config={"lr": 0.1}, every=5
    )
    history = fit(vae, data, epochs=2, compiled=False, callback=tracker)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    # A slow machine writes the configuration after the run, in a record of its own.
    for _ in range(60):
        found = list(records(file))
        config = {
            (update.key or "/".join(update.nested_key)): json.loads(update.value_json)
            for record in found
            for part in (record.run.config, record.config)
            for update in part.update
        }
        if "lr" in config:
            break
        time.sleep(0.5)
    assert config["lr"] == 0.1
    assert config["vae"]["guide"] == "mean-field"
    rows = {}
    for record in found:
        if record.WhichOneof("record_type") == "history":
            row = {
                (i.key or "/".join(i.nested_key)): json.loads(i.value_json)
                for i in record.history.item
            }
            rows[row["_step"]] = row
    assert set(rows) == {1, 2}
    for epoch in history:
        for name, value in numbers_of(epoch).items():
            assert rows[epoch.epoch][name] == pytest.approx(value)
    assert rows[2]["samples/_type"] == "image-file"
    assert len(list(file.parent.glob("files/media/images/*.png"))) == 2
    assert [r.exit.exit_code for r in found if r.WhichOneof("record_type") == "exit"] == [0]


def test_train_tracks_a_run_and_goes_on_in_the_same_place(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    ask = ["--track", "tensorboard", "--pictures", "2"]
    assert typed([*TINY, "--epochs", "1", *ask, "--out", run]) == 0
    assert typed(["train", "--resume", run, "--epochs", "2", *ask]) == 0
    events = read_events(run / "tensorboard")
    wanted = [(e.epoch, np.float32(e.elbo)) for e in read_history(run)]
    assert [(s.step, s.value) for s in events.Scalars("validation_elbo")] == wanted
    assert len(wanted) == 2


def test_trackers_that_cannot_be_used_are_refused_first(data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    assert typed([*TINY, "--track", "tensorbord", "--out", out]) == 2
    assert "did you mean tensorboard" in capsys.readouterr().err
    monkeypatch.setattr("pyro_vae.trackers.base.find_spec", lambda name: None)
    assert typed([*TINY, "--track", "mlflow", "--out", out]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said == (
        "Error: MLflow needs a package that is not installed; install it with: pip install "
        "alembic mlflow-skinny sqlalchemy"
    )
    assert not out.exists()
    with pytest.raises(InputError, match="pip install wandb"):
        WandB()
    monkeypatch.undo()
    with pytest.raises(InputError, match="give both or none"):
        TensorBoard(tmp_path, images=data.test)
    assert chosen(["tensorboard", "tensorboard"]) == [TensorBoard]


class Failing(TensorBoard):
    """Fails where it is told to."""

    def __init__(self, *where):
        super().__init__("unused")
        self.where = where

    def fail(self, name):
        if name in self.where:
            raise OSError("the server is gone\nmore")

    def begin(self):
        self.fail("begin")

    def numbers(self, epoch, values):
        self.fail("numbers")

    def end(self, completed):
        self.fail("end")


def test_a_tracker_that_fails_later_does_not_end_training(data):
    pytest.importorskip("tensorboard")
    with pytest.raises(InputError, match=r"TensorBoard cannot start: OSError: the server is gone$"):
        fit(small(data), data, epochs=1, compiled=False, callback=Failing("begin", "end"))
    with pytest.warns(UserWarning, match="did not take all of epoch 1, and training goes on: OSEr"):
        history = fit(small(data), data, epochs=1, compiled=False, callback=Failing("numbers"))
    assert len(history) == 1
    with pytest.warns(UserWarning, match="did not take all of epoch 1"):
        fit(small(data), data, epochs=1, compiled=False, callback=Failing("end"))
