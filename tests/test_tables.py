"""Tables: the types of columns, reading by a schema, and the way back."""

import json
import re
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from support.tables import patients

from pyro_vae import VAE, InputError, fit, load, load_data
from pyro_vae.data import Data, Schema
from pyro_vae.data.inferring import skewness
from pyro_vae.figures import marginals

INFERRED = {
    "age": "real",
    "bmi": "real",
    "income": "positive",
    "visits": "count",
    "sex": "binary",
    "city": "categorical",
    "ward": "categorical",
    "stage": "ordered",
    "smokes": "binary",
    "rating": "ordered",
    "seconds": "real",
    "code": "binary",
}
LEFT_OUT = {
    "id": "all values differ",
    "seen": "dates",
    "note": "all values differ",
    "site": "always 3",
    "empty": "all missing",
}


def types(schema):
    return {column.name: column.type for column in schema.columns}


def table(cells, schema=None, rows=24, **options):
    """A column ``x``, its cells repeated, beside a column that is always fine."""
    frame = pd.DataFrame({"x": pd.Series(cells * (rows // len(cells))), "y": np.arange(rows) % 7})
    return Data.of_table(frame, schema, **options)


def test_types_are_inferred_and_the_rest_is_left_out_with_a_reason():
    schema = Data.of_table(patients()).train.schema
    assert types(schema) == INFERRED
    assert schema.left_out == LEFT_OUT
    assert str(schema) == (
        "3 real (age, bmi, seconds), 1 positive (income), 1 count (visits), 3 binary (sex, smokes, "
        "code), 2 categorical (city, ward), 2 ordered (stage, rating); left out: id (all values "
        "differ), seen (dates), note (all values differ), site (always 3), empty (all missing)"
    )


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([1.5, -2.5, 3.25], "real"),
        ([0.5, 1.5, 2.5, 90.5], "positive"),
        ([2.0, 3.5, 4.0], "real"),
        ([0, 1, 5], "count"),
        ([0.0, 1.0, 5.0, np.nan], "count"),
        ([1, 2, 3], "ordered"),
        ([-1, 0, 1], "real"),
        ([*range(10, 22)], "real"),
        ([1, 2], "binary"),
        (["a", "b"], "binary"),
        ([True, False, None], "binary"),
        (["a", "b", "c"], "categorical"),
        (["1", "2", "x"], "categorical"),
        (["2020-01-31", "2021-12-01"], "dates"),
        (["31.1.2020", "1.12.2021"], "dates"),
        ([[1], [2]], "holds things of type list"),
        ([1j, 2j, 3j], "complex numbers"),
        (["only"], "always only"),
    ],
)
def test_each_rule(cells, expected):
    schema = table(cells).train.schema
    assert {**types(schema), **schema.left_out}["x"] == expected


def test_whole_numbers_that_differ_are_left_out_if_they_rise_or_are_called_id():
    numbers = np.random.RandomState(0).permutation(100) * 3 + 1
    frame = pd.DataFrame(
        {"patient_id": numbers, "humid": numbers, "rising": np.arange(100) * 2 + 5, "y": 1.5}
    )
    schema = Data.of_table(frame).train.schema
    assert types(schema) == {"humid": "real"}
    assert schema.left_out.keys() == {"patient_id", "rising", "y"}


def test_many_different_words_are_text():
    words = [f"word {i}" for i in range(60)] * 3
    frame = pd.DataFrame(
        {"few": words[:40] * 4 + words[:20], "many": words, "y": [0.5, 1.5, 3] * 60}
    )
    schema = Data.of_table(frame).train.schema
    assert types(schema) == {"few": "categorical", "y": "ordered"} | {"y": "real"}
    assert schema.left_out == {"many": "text of 60 different values"}


def test_skewness_is_scipys():
    from scipy import stats

    numbers = np.random.RandomState(0).gamma(2.0, size=50) * 1e200
    assert skewness(numbers) == pytest.approx(stats.skew(numbers / 1e200))


def same(found, expected):
    """Equal tables, but for the rounding of float32."""
    pd.testing.assert_frame_equal(found, expected.fillna(np.nan), rtol=3e-7, check_index_type=False)


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_table_comes_back_from_a_file_a_saved_vae_and_samples(tmp_path, ending):
    frame, path = patients(), tmp_path / f"patients.{ending}"
    if ending == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
        frame = pd.read_csv(path, sep="\t" if ending == "tsv" else ",")
    data = load_data(path)
    schema = data.train.schema
    names = [column.name for column in schema.columns]
    for part in (data.train, data.test):
        index = [int(name) for name in part.files]
        same(schema.frame(part.pixels, part.mask, index), frame.loc[index, names])
    vae = VAE.for_data(data, 2, hidden=[8])
    vae.save(tmp_path / "vae")
    with torch.no_grad():
        x = load(tmp_path / "vae").model(n=50)
    drawn = Schema.from_json(json.loads(json.dumps(schema.to_json()))).frame(x)
    for name in names:
        found, expected = drawn[name], frame[name]
        if isinstance(expected.dtype, pd.CategoricalDtype) or expected.dtype.kind in "iuf":
            assert found.dtype == expected.dtype
        else:  # words and truth values, where pandas has an object if a cell is missing
            assert set(found) <= set(expected.dropna())
    assert set(drawn["rating"]) <= {1, 2, 3, 4, 5}
    assert (drawn["income"] > 0).all()
    assert ((drawn["visits"] >= 0) & (drawn["visits"] % 1 == 0)).all()
    again = Data.of_table(drawn, schema, test_fraction=0).train
    torch.testing.assert_close(again.pixels[:, 1:], x[:, 1:])  # the age is rounded


def test_numbers_far_from_zero_keep_their_digits():
    frame = pd.DataFrame({"t": 1.7e9 + np.random.RandomState(0).rand(50), "y": np.arange(50) % 3})
    images = Data.of_table(frame, test_fraction=0).train
    back = images.schema.frame(images.pixels)["t"]
    assert np.abs(back - frame["t"]).max() < 1e-6  # float32 itself resolves 128 here
    # The offset moves the density and does not change it: log p(x) is that of t itself.
    vae = VAE.for_data(images, 2)
    mean, scale = vae.config["scaling"]
    assert mean[0] + images.schema.columns[0].offset == pytest.approx(frame["t"].mean())
    assert scale[0] == pytest.approx(frame["t"].std(ddof=0), rel=1e-4)


def test_the_log_density_is_in_the_units_of_the_column():
    frame = pd.DataFrame({"m": np.random.RandomState(0).randn(200), "y": np.arange(200) % 2})
    found = []
    for factor in (1, 1000):
        data = Data.of_table(frame.assign(m=factor * frame["m"]))
        torch.manual_seed(0)
        vae = VAE.for_data(data, 2, hidden=[8])
        history = fit(vae, data, epochs=3, progress=False)
        found.append(history[-1].elbo)
    assert found[0] - found[1] == pytest.approx(np.log(1000), abs=1e-3)


def test_missing_cells_are_the_mask():
    frame = patients()
    data = Data.of_table(frame, test_fraction=0)
    names = [column.name for column in data.train.schema.columns]
    np.testing.assert_array_equal(data.train.mask.numpy(), frame[names].notna().to_numpy())
    vae = VAE.for_data(data.train, 2)
    assert vae.config["holes"]
    assert VAE.for_data(Data.of_table(patients(holes=0)), 2).config["holes"] is False


def test_another_table_is_read_by_the_schema_of_the_first():
    frame = patients()
    first = Data.of_table(frame, test_fraction=0).train
    other = frame[frame.columns[::-1]].iloc[:7].drop(columns="note")
    rows = Data.of_table(other, first.schema, test_fraction=0).train
    torch.testing.assert_close(rows.pixels, first.pixels[:7])


def test_a_label_becomes_the_classes_of_the_rows():
    frame = patients()
    data = Data.of_table(frame, label="sex")
    assert data.train.classes == ("f", "m")
    assert "sex" not in types(data.train.schema)
    rows = [int(name) for name in data.test.files]
    assert [data.test.classes[i] for i in data.test.labels] == frame["sex"][rows].tolist()
    unlabelled = Data.of_table(frame.drop(columns="sex"), data.train.schema, label="sex")
    assert unlabelled.train.labels is None  # new rows need not have a label
    with pytest.raises(InputError, match="label 'empty' of the table is missing in all rows"):
        Data.of_table(frame, label="empty")
    with pytest.raises(
        InputError, match="label 'town' is not a column of the table, which has id, age"
    ):
        Data.of_table(frame, label="town")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"rating": "categorical", "income": "real", "age": "left out"}, None),
        ({"age": "count", "visits": "ordered"}, None),
        ({"city": {"type": "ordered", "levels": ["Rome", "Bonn", "Paris", "Oslo"]}}, 4),
    ],
)
def test_a_schema_overrides_what_is_inferred(tmp_path, schema, expected):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    frame = patients()
    found = Data.of_table(frame, file).train.schema
    assert found == Data.of_table(frame, schema).train.schema
    plain = {k: v if isinstance(v, str) else v["type"] for k, v in schema.items()}
    kept = {k: v for k, v in (INFERRED | plain).items() if v != "left out"}
    assert types(found) == kept
    if expected:
        (city,) = (column for column in found.columns if column.name == "city")
        assert city.levels == ("Rome", "Bonn", "Paris", "Oslo")


BAD_SCHEMAS = [
    ({"town": "real"}, "the schema names town, and the table has the columns id, age"),
    ({"age": "number"}, "a type is one of real, positive, count, binary, categorical, ordered"),
    ({"site": "real"}, "the column 'site' of the table is always 3"),
    ({"empty": "real"}, "the column 'empty' of the table is all missing"),
    ({"city": "real"}, "the column 'city' of the table needs real numbers .*, and row 0 has '.*'"),
    ({"bmi": "count"}, "the column 'bmi' of the table needs whole numbers of at least 0"),
    ({"city": "binary"}, "is binary by the schema, and it has 3 values"),
    ({"city": "ordered"}, "give their order as"),
    ({"age": {"type": "real", "levels": [1, 2]}}, "can have levels"),
    ({"city": {"type": "categorical", "levels": ["Rome"]}}, "at least two different"),
    (
        {"city": {"type": "categorical", "levels": ["Rome", "Bonn"]}},
        "the column 'city' of the table has the values .* has 'Paris'",
    ),
    ({"seconds": "positive"}, "too near each other for float32"),
    ({"seen": "real"}, "the column 'seen' of the table has the type datetime64"),
    ([], "a whole schema is a list of at least one column"),
    ([{"name": "age", "type": "real"}], "has a name, a type and a dtype"),
    (
        [{"name": "age", "type": "real", "dtype": "datetime64[ns]"}],
        "has a name, a type and a dtype",
    ),
    ([{"name": "age", "type": "real", "dtype": "no type"}], "has a name, a type and a dtype"),
    (3, "a schema gives columns their types"),
    ("no-such.json", "the schema file 'no-such.json' cannot be read"),
]


@pytest.mark.parametrize(("schema", "words"), BAD_SCHEMAS)
def test_a_schema_that_does_not_fit_is_refused(schema, words):
    with pytest.raises(InputError, match=words):
        Data.of_table(patients(), schema)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not JSON"), ('{"age": "real", "age": "count"}', "has a name twice")],
)
def test_a_schema_file_that_cannot_be_read_is_refused(tmp_path, text, words):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=words):
        Data.of_table(patients(), tmp_path / "s.json")


BAD_TABLES = [
    (lambda f: f.drop(columns=["age", "bmi"]), "the table lacks 2 columns, age, bmi; its"),
    (lambda f: f.assign(more=1, most=2), "the table has 2 further columns, more, most; its"),
    (
        lambda f: f.assign(city="Oslo"),
        "the column 'city' of the table has the values .*, and row 0 has 'Oslo'",
    ),
    (lambda f: f.assign(visits=-1), "'visits' of the table needs whole .*, and row 0 has -1"),
    (lambda f: f.assign(visits=0.5), "'visits' of the table needs whole .*, and row 0 has 0.5"),
    (lambda f: f.assign(visits=2**24 + 1), "the column 'visits' of the table needs"),
    (lambda f: f.assign(income=0.0), "the column 'income' of the table needs numbers above 0"),
    (lambda f: f.assign(income=1e-40), "above 0, of at least 1.2e-38, the smallest that float32"),
    (lambda f: f.assign(bmi=True), "'bmi' of the table needs real .*, and row 0 has True"),
    (
        lambda f: f.assign(visits=f["visits"].astype(object).mask(f.index == 3, True)),
        "'visits' of the table needs whole .*, and row 3 has True",
    ),
    (
        lambda f: f.assign(bmi=np.inf),
        "the column 'bmi' of the table needs real numbers .*, and row 0 has inf",
    ),
    (lambda f: f.assign(bmi=1e300), "in the range of float32"),
    (lambda f: f.assign(bmi="thin"), "'bmi' of the table needs real .*, and row 0 has 'thin'"),
    (lambda f: f.assign(sex=[["f"]] * len(f)), "the column 'sex' of the table holds lists"),
    (lambda f: f.iloc[:0], "the table has no rows"),
    (lambda f: pd.concat([f, f["age"]], axis=1), "has the column 'age' twice"),
]


@pytest.mark.parametrize(("change", "words"), BAD_TABLES)
def test_a_table_that_does_not_fit_the_schema_is_refused(change, words):
    frame = patients()
    schema = Data.of_table(frame).train.schema
    with pytest.raises(InputError, match=words):
        Data.of_table(change(frame), schema)


def test_infinite_numbers_are_refused_without_a_schema():
    with pytest.raises(
        InputError, match=r"the column 'x' of the table needs .*, and row 1 has inf"
    ):
        table([1.5, np.inf, 2.5, 9.5])


@pytest.mark.parametrize("unit", [1e-300, 1e-40])
def test_numbers_that_differ_by_less_than_float32_holds_are_refused(unit):
    cells = [unit * n for n in (1.5, -2.5, 3.5, 9.5)]
    with pytest.raises(InputError, match=r"'x' of the table .* differ by .* at most"):
        table(cells)
    assert types(table([1e3 * cell / unit * 1e-38 for cell in cells]).train.schema)["x"] == "real"


def test_a_table_without_a_column_to_train_on_is_refused():
    with pytest.raises(InputError, match=r"no column to train on; left out: x \(always 1\)"):
        Data.of_table(pd.DataFrame({"x": [1, 1, 1]}))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "cannot be read"),
        ("a.csv", b"a,b\n1,2,3,4\n1,2\n", "cannot be read"),
        ("a.csv", b"a;b\n1.5;2\n3;4\n", "its separator seems to be ';'"),
        ("a.csv", b"\xff\xfe\x00\x01", "is not UTF-8"),
        ("a.parquet", b"no parquet", "cannot be read"),
        ("a.h5ad", b"no h5ad", "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_data(tmp_path / name)


def test_words_stay_words_in_another_file(tmp_path):
    """A column of "01" and "x" is read as words, and so is one of "01" alone by its schema."""
    pd.DataFrame({"c": ["01", "02", "x"] * 8, "y": np.arange(24) % 5}).to_csv(
        tmp_path / "one.csv", index=False
    )
    pd.DataFrame({"c": ["01", "02"] * 3, "y": np.arange(6) % 5}).to_csv(
        tmp_path / "two.csv", index=False
    )
    schema = load_data(tmp_path / "one.csv").train.schema
    rows = load_data(tmp_path / "two.csv", schema=schema, test_fraction=0).train
    assert rows.pixels[:, 0].tolist() == [0, 1] * 3


def test_schema_and_label_are_for_tables():
    with pytest.raises(InputError, match="is for tables, files that end in"):
        load_data("digits", label="x")


def test_the_matrix_of_an_anndata_file(tmp_path):
    anndata = pytest.importorskip("anndata")
    sparse = pytest.importorskip("scipy.sparse")
    counts = np.random.RandomState(0).poisson(2.0, (30, 4)).astype(np.float32)
    obs = pd.DataFrame({"cell": ["a", "b", "b"] * 10}, index=[f"c{i}" for i in range(30)])
    var = pd.DataFrame(index=["g1", "g2", "g3", "g4"])
    for i, matrix in enumerate((counts, sparse.csr_matrix(counts))):
        path = tmp_path / f"{i}.h5ad"
        anndata.AnnData(matrix, obs, var).write_h5ad(path)
        images = load_data(path, label="cell", test_fraction=0).train
        assert types(images.schema) == dict.fromkeys(var.index, "count")
        assert images.pixels.tolist() == counts.tolist()
        assert images.classes == ("a", "b")
        assert images.files == tuple(obs.index)
    with pytest.raises(InputError, match="which has cell, g1, g2"):
        load_data(path, label="batch")


def test_the_picture_of_the_columns():
    images = Data.of_table(patients(), test_fraction=0).train
    figure = marginals(images.schema, {"data": (images.pixels, images.mask)})
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == list(INFERRED)
    frame = patients()
    heights = [bar.get_height() for bar in panels["city"].patches]
    shares = frame["city"].value_counts(normalize=True).sort_index()
    assert heights == pytest.approx(shares.tolist())
    assert panels["income"].get_xscale() == "log"
    with pytest.raises(InputError, match=r"rows of this table are a tensor \[N, 12\]"):
        images.schema.frame(torch.zeros(3, 2))


def test_a_picture_draws_numbers_that_are_not_levels_by_value():
    images = Data.of_table(patients(), test_fraction=0).train
    x = images.pixels + torch.randn(images.pixels.shape, generator=torch.manual_seed(0))
    figure = marginals(images.schema, {"data": (images.pixels, None), "samples": (x, None)})
    axes = {axes.get_title(): axes for axes in figure.axes}["sex"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["f", "m"]
    heights = axes.patches[-1].get_xy()[:, 1]  # the histogram of the samples
    sex = x[:, list(INFERRED).index("sex")]
    nearest = ((sex > 0.875) & (sex < 1.125)).float().mean().item()
    assert np.isclose(heights, nearest, atol=1e-4).any()
    outside = ((sex < -1.125) | (sex > 2.125)).float().mean().item()
    assert f"samples {100 * outside:.0f} %" in axes.texts[0].get_text()


def test_a_picture_leaves_out_what_is_outside_and_says_so():
    frame = pd.DataFrame({"x": np.linspace(-1, 1, 200) ** 3})
    images = Data.of_table(frame, test_fraction=0).train
    x = images.pixels.clone()
    x[:50] = 40.0
    figure = marginals(images.schema, {"data": (images.pixels, None), "samples": (x, None)})
    (axes,) = figure.axes
    assert axes.texts[0].get_text() == "outside: samples 25 %"
    data, samples = (patch.get_xy()[:, 1] for patch in axes.patches)
    assert samples[-4:].max() <= data[-4:].max()  # no spike at the edge
    assert axes.get_xlim()[1] < 2


def test_a_picture_says_what_it_does_not_draw():
    random = np.random.RandomState(0)
    frame = pd.DataFrame({f"c{i:02}": random.randn(90) for i in range(30)})
    frame.insert(0, "zip", [f"z{i:02}" for i in range(45)] * 2)
    frame.insert(1, "code", random.choice([1.0, 1001.0], 90))
    schema = {"zip": "categorical", "code": "categorical"}
    images = Data.of_table(frame, schema=schema, test_fraction=0).train
    figure = marginals(images.schema, {"data": (images.pixels, None)}, title="epoch 3")
    assert figure.axes[0].texts[0].get_text() == "first 12 of 45 values"
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == ["1", "1001"]
    (words,) = figure.texts
    assert words.get_text() == "epoch 3\nshare of rows; 8 more columns are not drawn"
    figure.draw_without_rendering()
    below = words.get_window_extent().y0
    assert all(axes.title.get_window_extent().y1 < below for axes in figure.axes)


def test_a_column_whose_cells_are_all_missing_has_an_empty_panel():
    images = Data.of_table(patients(), test_fraction=0).train
    nothing = torch.zeros_like(images.pixels, dtype=torch.bool)
    figure = marginals(images.schema, {"data": (images.pixels, nothing)})
    assert len(figure.axes) == len(INFERRED)


def test_a_number_that_hides_all_others_is_refused_with_its_row():
    """One that alone makes σ more than 1,000 times the usual distance; heavy tails pass."""
    random = np.random.RandomState(0)
    frame = pd.DataFrame({"age": 50 + 3 * random.randn(100), "b": random.randn(100)})
    for value in (-1e12, 1e30):
        frame.loc[17, "age"] = value
        message = rf"the column 'age' of the table has {value!r} in row 17, and half of its other"
        with pytest.raises(InputError, match=re.escape(message)):
            Data.of_table(frame, {"age": "real"})
        data = Data.of_table(frame, {"age": "left out"})
        assert [column.name for column in data.train.schema.columns] == ["b"]
    usual = frame["age"].sub(frame["age"].median()).abs().median()
    for times, refused in ((0.9, False), (1.1, True)):
        frame.loc[17, "age"] = frame["age"].median() + times * 1000 * usual * 10  # √100
        with pytest.raises(InputError, match="row 17") if refused else nullcontext():
            Data.of_table(frame, {"age": "real"})
    for heavy in (random.standard_cauchy(20_000), np.where(random.rand(100) < 0.9, 0.0, 5.5)):
        Data.of_table(pd.DataFrame({"a": heavy, "b": random.randn(len(heavy))}), {"a": "real"})
    whole = Data.of_table(frame.assign(age=50 + random.randn(100)), {"age": "real"})
    far = Data.of_table(frame.assign(age=1e12), whole.train.schema)  # a run reads what it is given
    vae = VAE.for_data(whole, 2, hidden=(8,))
    assert vae.encode(far.train.pixels).stddev.isfinite().all()


def test_a_narrow_positive_column_does_not_make_sigma_infinite():
    """A trial run sees zeros, whose logarithm is far from that of 50 ± 1."""
    random = np.random.RandomState(0)
    frame = pd.DataFrame({"a": np.exp(4 + 0.01 * random.randn(60)), "b": random.randn(60)})
    data = Data.of_table(frame, {"a": "positive", "b": "real"})
    for seed in range(10):
        torch.manual_seed(seed)
        vae = VAE.for_data(data, 20)
        assert vae.encode(torch.zeros(2, 2)).stddev.isfinite().all()
