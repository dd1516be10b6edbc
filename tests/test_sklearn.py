"""The transformer of scikit-learn: its conventions, and its density beside that of PCA."""

import pickle

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_vae import InputError
from pyro_vae.sklearn import VAETransformer

SMALL = {"epochs": 2, "hidden": (8,), "samples": 20}
UNITS = np.array([1.0, 10.0, 100.0, 0.1, 1000.0, 1.0])

pytestmark = pytest.mark.filterwarnings("ignore::pyro_vae.history.CollapseWarning")


@parametrize_with_checks([VAETransformer(2, **SMALL)])
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def linear():
    """Rows of a linear Gaussian model with two latents, columns in other units, and a fit."""
    random = np.random.RandomState(0)
    weights = random.randn(2, 6)

    def draw(n):
        return (random.randn(n, 2) @ weights + 0.5 * random.randn(n, 6)) * UNITS + 5

    train, test = draw(1500), draw(60)
    model = VAETransformer(2, epochs=40, lr=3e-3, hidden=(64,), random_state=0)
    return train, test, model.fit(train)


def test_the_density_is_in_the_units_of_the_columns(linear):
    """PCA has the density of the same model in closed form, for standardised columns."""
    train, test, model = linear
    scaler = StandardScaler().fit(train)
    exact = PCA(2).fit(scaler.transform(train)).score_samples(scaler.transform(test))
    exact -= np.log(scaler.scale_).sum()
    ours = model.score_samples(test)
    assert ours.mean() == pytest.approx(exact.mean(), abs=0.4)
    assert np.corrcoef(ours, exact)[0, 1] > 0.9
    assert model.score(test) == ours.mean()


def test_rows_come_back_in_the_units_of_the_columns(linear):
    train, test, model = linear
    back = model.inverse_transform(model.transform(test))
    scaler = StandardScaler().fit(train)
    pca = PCA(2).fit(scaler.transform(train))
    best = scaler.inverse_transform(pca.inverse_transform(pca.transform(scaler.transform(test))))
    ours, least = (((each - test) ** 2 / scaler.var_).mean() for each in (back, best))
    assert least < ours < 1.5 * least


def test_the_score_of_a_row_does_not_depend_on_the_other_rows(linear):
    _, test, model = linear
    few = model.score_samples(test[:3])
    assert np.array_equal(model.score_samples(test[2::-1]), few[::-1])
    far = model.score_samples(test[:1] + 1e3 * UNITS)  # outside of what was seen
    assert far < few[0] - 1000


def test_a_pickled_transformer_gives_the_same(linear):
    _, test, model = linear
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.transform(test), model.transform(test))
    assert np.array_equal(copy.score_samples(test[:3]), model.score_samples(test[:3]))


def test_the_random_state_decides_about_all_numbers():
    x = load_iris().data
    first, again, other = (
        VAETransformer(2, **SMALL, random_state=seed).fit_transform(x) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_pipeline_and_a_grid_search():
    x, y = load_iris(return_X_y=True)
    steps = VAETransformer(**SMALL, random_state=0), LogisticRegression()
    search = GridSearchCV(make_pipeline(*steps), {"vaetransformer__latent_size": [1, 2]}, cv=2)
    assert search.fit(x, y).best_score_ > 1 / 3
    alone = GridSearchCV(VAETransformer(2, **SMALL, random_state=0), {"lr": [1e-3, 1e-1]}, cv=2)
    assert alone.fit(x[::5]).best_params_ == {"lr": 1e-1}


def test_rows_that_are_images():
    x = load_digits().data[:200]
    shape = (1, 8, 8)
    model = VAETransformer(2, **SMALL, network="conv", image_shape=shape, random_state=0)
    model.set_params(hidden=(4, 16)).fit(x)
    assert model.vae_.shape == shape
    assert model.inverse_transform(model.transform(x[:2])).shape == (2, 64)
    # All pixels have one mean and one standard deviation, as the constant pixels need.
    assert model.factor_.shape == ()
    with pytest.raises(InputError, match=r"image_shape \(1, 8, 9\) has 72 pixels, .* have 64"):
        VAETransformer(2, **SMALL, image_shape=(1, 8, 9)).fit(x)


def test_binary_columns_have_a_probability():
    """Over all rows of three columns, the probabilities sum to 1."""
    cube = np.array(np.meshgrid(*[[0.0, 1.0]] * 3)).reshape(3, -1).T
    x = np.repeat(cube, np.arange(1, 9), axis=0)
    settings = SMALL | {"samples": 5000}  # all rows have the same draws, and so the same noise
    model = VAETransformer(2, **settings, standardize=False, random_state=0).fit(x)
    assert model.vae_.config["likelihood"] == "bernoulli"
    assert np.exp(model.score_samples(cube)).sum() == pytest.approx(1, abs=0.05)
    with pytest.raises(InputError, match=r"scores numbers in \[0, 1\]"):
        model.transform(2 * cube)


def test_several_layers_of_latents_stand_side_by_side():
    x = load_iris().data
    layers = VAETransformer((3, 2), guide="ladder", **SMALL, random_state=0)
    z = layers.fit_transform(x)
    assert layers.sites_ == {"z_1": 3, "z_2": 2}
    assert list(layers.get_feature_names_out()) == [f"vaetransformer{i}" for i in range(5)]
    assert layers.inverse_transform(z).shape == x.shape
    with pytest.raises(InputError, match="the latents have 5 columns, and 4 are given"):
        layers.inverse_transform(z[:, :4])


def test_nothing_can_be_used_before_fit():
    x = load_iris().data
    for use in ("transform", "inverse_transform", "score_samples"):
        with pytest.raises(NotFittedError):
            getattr(VAETransformer(), use)(x)
