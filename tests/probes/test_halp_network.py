"""The HALP network: the same arithmetic as torch's, deterministic, and able to learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vlmscope.probes.halp_network import HalpNetwork, Model, halp_risk

WIDTH, ROWS = 10, 24
SMALL = HalpNetwork(hidden=(16, 8, 4), learning_rate=0.01, batch=8, epochs=12)


class Masked(nn.Module):
    """Dropout with a mask that is given."""

    mask: torch.Tensor

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.mask if self.training else values


def in_torch(model: Model, network: HalpNetwork) -> nn.Sequential:
    """The network as the HALP scripts write it, with the weights of ours."""
    layers: list[nn.Module] = []
    before = WIDTH
    for units in network.hidden:
        middle = [nn.ReLU(), nn.BatchNorm1d(units)]
        layers += [nn.Linear(before, units), *middle[:: -1 if network.norm_first else 1], Masked()]
        before = units
    found = nn.Sequential(*layers, nn.Linear(before, 1), nn.Sigmoid())
    linear = [layer for layer in found if isinstance(layer, nn.Linear)]
    for layer, weight, bias in zip(
        linear, model.parameters[0::2], model.parameters[1::2], strict=False
    ):
        layer.weight.data = torch.tensor(weight.T)
        layer.bias.data = torch.tensor(bias)
    return found


@pytest.mark.parametrize("norm_first", [False, True])
def test_steps_are_those_of_torch(norm_first: bool) -> None:
    """Twenty steps of Adam on the same batches with the same dropout, in training and after."""
    network = HalpNetwork(hidden=(16, 8, 4), norm_first=norm_first)
    rng = np.random.default_rng(3)
    model = Model(WIDTH, network, rng)
    other = in_torch(model, network)
    optimizer = torch.optim.Adam(other.parameters(), lr=1e-3)
    loss = nn.BCELoss()
    for _ in range(20):
        inputs = (3 * rng.standard_normal((ROWS, WIDTH)) + 1).astype(np.float32)
        label = (rng.random(ROWS) < 0.4).astype(np.float32)
        masks = model.masks(ROWS, rng)
        for layer, mask in zip(
            (each for each in other if isinstance(each, Masked)), masks, strict=True
        ):
            layer.mask = torch.tensor(mask)
        model.step(inputs, label, masks)
        optimizer.zero_grad()
        loss(other(torch.tensor(inputs)).squeeze(), torch.tensor(label)).backward()
        optimizer.step()
    # Before a norm a bias changes nothing: its gradient is rounding noise, which Adam blows up.
    linear = [layer for layer in other if isinstance(layer, nn.Linear)]
    norms = [layer for layer in other if isinstance(layer, nn.BatchNorm1d)]
    pairs = list(zip(model.parameters[0:8:2], [layer.weight.T for layer in linear], strict=True))
    if not norm_first:
        pairs += zip(model.parameters[1:8:2], [layer.bias for layer in linear], strict=True)
    pairs += zip(model.parameters[8::2], [layer.weight for layer in norms], strict=True)
    pairs += zip(model.parameters[9::2], [layer.bias for layer in norms], strict=True)
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=2e-5)
    fresh = rng.standard_normal((50, WIDTH)).astype(np.float32)
    with torch.no_grad():
        expected = other.eval()(torch.tensor(fresh)).squeeze().numpy()
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(model.predict(fresh), expected, atol=2e-3 if norm_first else 2e-5)


def test_initial_weights_are_drawn_as_torch_draws_them() -> None:
    model = Model(400, HalpNetwork(), np.random.default_rng(0))
    layer = nn.Linear(400, 512)
    for ours, theirs in ((model.parameters[0], layer.weight), (model.parameters[1], layer.bias)):
        found = theirs.detach().numpy()
        assert ours.dtype == np.float32
        assert np.abs(ours).max() == pytest.approx(np.abs(found).max(), rel=0.02)
        assert ours.std() == pytest.approx(found.std(), rel=0.1)


def test_dropout_keeps_the_share_and_the_scale() -> None:
    masks = Model(4, HalpNetwork(), np.random.default_rng(0)).masks(64, np.random.default_rng(1))
    assert [mask.shape for mask in masks] == [(64, 512), (64, 256), (64, 128)]
    kept = np.concatenate([mask.ravel() for mask in masks])
    assert set(np.unique(kept)) == {0, np.float32(1 / 0.7)}
    assert (kept > 0).mean() == pytest.approx(0.7, abs=0.01)


def planted(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.random(rows) < 0.4
    vectors = rng.standard_normal((rows, WIDTH)).astype(np.float32)
    vectors[:, 3] += 3 * truth
    return vectors, truth


def test_a_planted_sign_is_learned_and_a_seed_repeats_itself() -> None:
    vectors, truth = planted()
    risk = halp_risk(vectors, truth, np.arange(150), SMALL, 7)
    assert risk is not None
    assert risk[150:][truth[150:]].mean() > risk[150:][~truth[150:]].mean() + 0.3
    again = halp_risk(vectors, truth, np.arange(150), SMALL, 7)
    other = halp_risk(vectors, truth, np.arange(150), SMALL, 8)
    assert np.array_equal(risk, again)
    assert not np.array_equal(risk, other)


@pytest.mark.parametrize("rows", [9, 17])
def test_a_last_batch_of_one_row_is_left_out(rows: int) -> None:
    vectors, truth = planted(40)
    risk = halp_risk(vectors, truth, np.arange(rows), SMALL, 0)
    assert risk is not None
    assert ((risk > 0) & (risk < 1)).all()


def test_vectors_beyond_float32_are_no_result_and_no_warning() -> None:
    vectors, truth = planted()
    huge = np.copysign(np.float32(3e38), vectors)
    assert halp_risk(huge, truth, np.arange(150), SMALL, 0) is None


def test_training_can_be_stopped() -> None:
    vectors, truth = planted()
    assert halp_risk(vectors, truth, np.arange(150), SMALL, 0, lambda: True) is None
