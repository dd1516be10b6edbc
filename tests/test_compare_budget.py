"""``compare --budget``: the epochs that fit into a time, and the sentence that names the best."""

import csv
import json
import re
import shlex
from dataclasses import fields
from functools import partial
from itertools import accumulate, chain, count

import pytest
import torch
from support.commands import TINY, typed

from pyro_vae import compare as compare_module
from pyro_vae import load, load_data, timing
from pyro_vae.cli.options import read
from pyro_vae.cli.values import duration, option_words
from pyro_vae.compare import MEASURED_WITH, compare
from pyro_vae.comparison import best, cell, markdown
from pyro_vae.errors import InputError
from pyro_vae.evaluation.importance import importance
from pyro_vae.loop import Loop
from pyro_vae.runs.setup import prepare
from pyro_vae.settings import Settings
from pyro_vae.timing import epochs_within

CPU = torch.device("cpu")
SMALL = {"data": "digits", "hidden": [4], "latent": 2, "batch_size": 2000}


def runs(*names):
    return {name: prepare(SMALL, CPU, None) for name in names}


def clock(*seconds):
    """A clock that is read before and after each epoch, and the epochs take these seconds."""
    return chain([0.0], accumulate(chain.from_iterable((each, 0.0) for each in seconds)))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1.5h", 5400), (".5s", 0.5), ("0.25m", 15), ("1000h", 3.6e6)],
)
def test_a_time_has_a_number_and_a_unit(text, seconds):
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "600",
            "1.5",
            "",
            "s",
            "-5m",
            "nan",
            "inf",
            "nans",
            "infh",
            "1e3s",
            "2d",
            "90 s",
            "1m30s",
        ),
        *("5.s", "٣s", "10M", "0s", "0.0h", "1001h"),
    ],
)
def test_another_text_is_not_a_time(text, tmp_path, capsys):
    out = tmp_path / "out"
    ask = ["compare", "--guides", "mean-field", "--data", "digits", "--out", out]
    assert typed([*ask, f"--budget={text}"]) == 2
    said = capsys.readouterr().err
    forms = "--budget takes a time such as 90s, 10m or 1.5h, not " + repr(text)
    bounds = f"--budget takes a time above 0s and at most 1000h, not {text}"
    assert said == f"Error: {bounds if text in ('0s', '0.0h', '1001h') else forms}\n"


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), "10m", True])
def test_python_takes_seconds(budget):
    with pytest.raises(InputError, match="budget is a number above 0, not "):
        compare({"a": SMALL}, 1, budget=budget, device=CPU)


def test_a_budget_beside_epochs_or_jobs_is_refused(tmp_path, capsys):
    ask = ["compare", "--guides", "mean-field", "--data", "digits", "--out", tmp_path / "out"]
    assert typed([*ask, "--budget", "9s", "--epochs", "3"]) == 2
    assert "--epochs cannot be given with it" in capsys.readouterr().err
    assert typed([*ask, "--budget", "9s", "--jobs", "2"]) == 2
    said = capsys.readouterr()
    assert "slow each other down" in said.err
    assert "timed" not in said.out
    assert typed([*ask, "--budget", "9s", "--validation", "0"]) == 2
    assert "timed" not in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    for more in ({"jobs": 2}, {"settings": {"a": {**SMALL, "epochs": 3}}}):
        with pytest.raises(InputError, match=r"^budget "):
            compare(**{"settings": {"a": SMALL}, "seeds": 1, "budget": 9.0, "device": CPU} | more)


def test_epochs_are_the_budget_over_the_median_without_the_first():
    """In turn: the times of a and of b alternate. One slow epoch changes nothing."""
    times = clock(100, 100, 2, 3, 9, 3.5, 2, 3)
    assert epochs_within(10, runs("a", "b"), False, times.__next__) == {"a": 5, "b": 3}
    assert len(list(times)) == 1


def test_short_epochs_are_timed_for_a_twentieth_of_the_budget():
    times = clock(*[1.0] * 20)
    assert epochs_within(100, runs("a"), False, times.__next__) == {"a": 100}
    assert len(list(times)) == 1 + 2 * (20 - 1 - 5)


def test_a_budget_below_one_epoch_is_refused_at_the_first_epoch_that_counts(monkeypatch):
    times = clock(3, 1, 2, 0.5, 9, 9)
    with pytest.raises(InputError, match=r"one epoch of a takes 2 seconds, and budget is 1.5 sec"):
        epochs_within(1.5, runs("a", "b"), False, times.__next__)
    assert len(list(times)) == 1 + 2 * 2
    assert epochs_within(2, runs("a"), False, clock(9, 2, 2, 2).__next__) == {"a": 1}
    started = []
    monkeypatch.setattr(compare_module, "epochs_within", partial(epochs_within, clock=tick(2)))
    with pytest.raises(InputError, match="one epoch of a takes 2 seconds"):
        compare({"a": SMALL}, 1, budget=1, device=CPU, on_start=lambda *a: started.append(a))
    assert not started


def tick(seconds):
    return count(step=seconds).__next__


def test_steps_are_compiled_where_a_training_of_this_time_compiles_them(monkeypatch):
    """The decision is that of fit for the epochs that fit without compiling."""
    chosen, asked = [], []
    choose = Loop.choose_step

    def spy(loop, compiled, pays, callback):
        chosen.append((compiled, pays))
        choose(loop, False, False, callback)

    def pays(steps):
        asked.append(steps)
        return steps > 5

    monkeypatch.setattr(Loop, "choose_step", spy)
    monkeypatch.setattr(timing, "pays", pays)
    # 12 s: 6 epochs of a, 4 of b. Only a pays, is timed again, and has 12 epochs then.
    times = clock(9, 9, 2, 3, 2, 3, 2, 3, 9, 1, 1, 1)
    assert epochs_within(12, runs("a", "b"), None, times.__next__) == {"a": 12, "b": 4}
    assert asked == [6, 4]
    assert chosen == [(None, False), (None, False), (None, True)]


def test_a_training_that_fails_while_it_is_timed_is_named():
    failing = {**runs("a"), "b": prepare({**SMALL, "lr": 1e30}, CPU, None)}
    with pytest.raises(InputError, match=r"^b fails while its epochs are timed: .* in epoch \d"):
        epochs_within(1, failing, False, tick(0.1))


def scores(name, *log_p, space="digits", seeds=None):
    return [
        {"name": name, "seed": seed, "log_p": each, "elbo": each, "observation_space": space}
        | {"collapsed": ""}
        for seed, each in zip(seeds or range(len(log_p)), log_p, strict=True)
    ]


def test_the_distance_has_a_paired_t_interval():
    """By hand: differences 1, 2, 3 have mean 2 and standard deviation 1, and the 97.5 % point of
    Student's t with 2 degrees of freedom is 4.303 in the tables, so 2 ± 4.303 / √3 = 2 ± 2.484."""
    a, b, c = scores("a", -89, -78, -97), scores("b", -90, -80, -100), scores("c", -95, -95, -95)
    assert best([*b, *c, *a]) == [
        "a has the highest validation log p̂(x), 2.00 nats above b (95 % t-interval over 3 paired "
        "seeds: -0.48 to 4.48); the interval contains zero, so the two cannot be told apart."
    ]
    # 2 ± 4.303 · 0.1 / √3 = 2 ± 0.248, although the spread over seeds is 10.
    a = scores("a", -88, -77.9, -98.1)
    assert best([*b, *a]) == [
        "a has the highest validation log p̂(x), 2.00 nats above b (95 % t-interval over 3 paired "
        "seeds: 1.75 to 2.25)."
    ]
    assert best([*b, *a])[0] in markdown([*b, *a])
    # Seed 1 of b failed: differences 2 and 1.9. 12.706 · 0.0707 / √2 = 0.635.
    assert (
        "1.95 nats above b (95 % t-interval over 2 paired seeds: 1.31 to 2.59)"
        in (best([*scores("b", -90, -100, seeds=[0, 2]), *a])[0])
    )


def test_what_cannot_be_compared_has_no_distance():
    one = [*scores("a", -2), *scores("b", -1)]
    assert best(one) == [
        "b has the highest validation log p̂(x), 1.00 nats above a, with one seed; more seeds show "
        "whether this is chance."
    ]
    assert best(scores("a", -2, -1)) == []
    assert best([*scores("a", -2, seeds=[0]), *scores("b", -1, seeds=[1])]) == []
    other = [*scores("c", 5.0, space="densities"), *scores("d", 7.0, space="densities")]
    first, second = best([*one, *other])
    assert first.startswith("b has the highest validation log p̂(x) of digits, 1.00 nats above a")
    assert second.startswith("d has the highest validation log p̂(x) of densities, 2.00 nats above")


def test_a_cell_shows_the_epochs_of_trainings_that_ended_early():
    assert cell("epochs", [{"epochs": 1200}, {"epochs": 1200}]) == "1,200"
    assert cell("epochs", [{"epochs": 12}, {"epochs": 9}, {"epochs": 10}]) == "9 to 12"


def test_the_words_of_a_command_give_the_same_settings():
    options = dict.fromkeys(f.name for f in fields(Settings))
    texts = {"hidden": "40,20", "latent": "8x7x7,16", "size": "48x64", "validation": "0.2"}
    given = read({**options, **texts, "crop": True, "lr": 0.002, "guide": "planar(flows=2)"})
    words = iter(option_words(given))
    again = {word[2:]: True if word == "--crop" else next(words) for word in words}
    assert read({**options, **again, "lr": float(again["lr"])}) == given


def test_a_comparison_with_a_budget_and_the_commands_that_repeat_it(tmp_path, monkeypatch, capsys):
    """mean-field has 3 epochs and low-rank 2, by a clock that is not the machine's."""
    times = clock(*[9, 9, *[1, 1.5] * 3])
    monkeypatch.setattr(
        compare_module, "epochs_within", partial(epochs_within, clock=times.__next__)
    )
    out, run = tmp_path / "out", tmp_path / "run"
    ask = ["compare", "--guides", "mean-field,low-rank", *TINY[1:], "--schedule", "cosine"]
    ask += ["--budget", "3.9s", "--seeds", "2", "--samples", "5", "--no-compile", "--out", out]
    assert typed([*ask, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "mean-field: 3 epochs in 3.9 seconds\nlow-rank: 2 epochs in 3.9 seconds\n" in said
    table = (out / "comparison.md").read_text(encoding="utf-8")
    assert "| parameters | epochs | s of training ± seeds |" in table
    assert re.search(r"\| low-rank \| .* \| 2 \| [\d.]+ ± [\d.]+ \|\n", table)
    assert "has the highest validation log p̂(x)" in table
    with (out / "comparison.csv").open(encoding="utf-8") as file:
        rows = {(row["name"], int(row["seed"])): row for row in csv.DictReader(file)}
    assert [row["epochs"] for row in rows.values()] == ["3", "2", "3", "2"]
    protocol = json.loads((out / "protocol.json").read_text())
    assert protocol["budget_seconds"] == 3.9
    assert protocol["settings"]["low-rank"]["epochs"] == 2
    command = protocol["commands"]["low-rank"][1]
    assert "--epochs 2 --seed 1" in command
    assert typed([*shlex.split(command)[1:], "--out", run]) == 0
    vae, held_out = load(run), load_data("digits", binarize="dynamic").validation
    log_p = importance(vae.model, vae.guide, held_out, samples=5, seed=MEASURED_WITH)
    assert log_p.mean == pytest.approx(float(rows["low-rank", 1]["log_p"]), abs=1e-4)


@pytest.mark.parametrize("budget", [None, 1.0])
def test_no_settings_are_refused(budget):
    with pytest.raises(InputError, match="there are no settings to compare"):
        compare({}, 1, budget=budget, device=torch.device("cpu"))
