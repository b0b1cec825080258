"""Statistics of a token's distribution hold for vocabularies as large as they are today."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlmscope.engine.answers import token_statistics
from vlmscope.engine.prefill import first_token_statistics
from vlmscope.model.p_true import log_odds

VOCABULARY = 151_936


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 20.0])
def test_statistics_are_exact_for_a_large_vocabulary(spread: float) -> None:
    """With ``log_softmax`` of float32 they are off by up to 3e-3 where most tokens are alike."""
    logits = torch.zeros(2, VOCABULARY)
    logits[:, :900] = spread * torch.randn(900, generator=torch.manual_seed(0))
    exact = logits[0].double().log_softmax(dim=0)
    entropy = -(exact.exp() * exact).sum().item()
    top = exact.topk(20).values.numpy()

    first, _, likeliest = first_token_statistics(logits)
    own, statistics = token_statistics(logits, torch.tensor([5, 6]))
    _, mass = log_odds(logits, ([5], [6, 7])).unbind(dim=1)
    assert first.numpy() == pytest.approx(entropy, abs=2e-5)
    assert likeliest[1].numpy() == pytest.approx(top, abs=2e-6)
    wanted = np.array([entropy, top[0], top[0] - top[1]])
    assert statistics[1].numpy() == pytest.approx(wanted, abs=2e-5)
    assert own.numpy() == pytest.approx(exact[5:7].numpy(), rel=1e-6, abs=2e-6)
    assert mass[1].item() == pytest.approx(exact[5:8].exp().sum().item(), rel=2e-6)


def test_tokens_that_are_all_but_certain_have_probabilities_of_their_own() -> None:
    """A rank statistic (AUROC) of many answers would see ties."""
    logits = 20 + torch.stack([torch.linspace(12, 14, 8), torch.zeros(8)], dim=1)
    likeliest = token_statistics(logits, torch.zeros(8, dtype=torch.int64))[1][:, 1]
    assert torch.equal(likeliest, first_token_statistics(logits)[2][:, 0])
    assert len(likeliest.unique()) == 8
    exact = logits.double().log_softmax(dim=1)[:, 0].numpy()
    assert likeliest.numpy() == pytest.approx(exact, abs=1.2e-7)
