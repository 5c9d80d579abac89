"""The budgets of tokens that are refused, and the sentences that say so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.cogvlm.budgets import TEXT_TOKENS, Budgets, refusal

IMAGE = 1227
ROOMY = Budgets(max_num_batched_tokens=2048, max_num_seqs=256, long_prefill_token_threshold=0, max_model_len=3272)


@pytest.mark.parametrize(
    ("budgets", "names"),
    [
        (ROOMY._replace(max_num_batched_tokens=256), ["`max-num-batched-tokens` (256)", "`max-num-seqs` (256)"]),
        (ROOMY._replace(max_num_seqs=2049), ["`max-num-batched-tokens` (2048)", "`max-num-seqs` (2049)"]),
        (ROOMY._replace(long_prefill_token_threshold=1), ["`long-prefill-token-threshold`"]),
        (ROOMY._replace(speculative=True), ["`speculative-config`"]),
        (ROOMY._replace(scheduling_policy="priority"), ['`scheduling-policy = "priority"`', "leave it out"]),
        (ROOMY._replace(max_model_len=IMAGE), ["`max_model_len` (1227)", f"set it to {IMAGE + TEXT_TOKENS} or more"]),
    ],
    ids=["few tokens", "many sequences", "chunks of one", "speculation", "priorities", "short"],
)
def test_what_would_be_wrong_is_refused_by_name(budgets: Budgets, names: list[str]) -> None:
    """The sentence names the option, its value where it has one, and the remedy."""
    sentence = refusal(budgets, IMAGE)

    assert sentence is not None
    assert all(name in sentence for name in names)


@pytest.mark.parametrize(
    "budgets",
    [
        Budgets(),
        ROOMY,
        ROOMY._replace(max_num_batched_tokens=257),
        ROOMY._replace(long_prefill_token_threshold=2),
        ROOMY._replace(max_model_len=IMAGE + TEXT_TOKENS),
        Budgets(max_num_batched_tokens=1),
    ],
    ids=["nothing known", "roomy", "one more", "chunks of two", "just long enough", "half known"],
)
def test_what_is_right_or_not_known_is_not_refused(budgets: Budgets) -> None:
    """The least that is right, and what cannot be judged yet."""
    assert refusal(budgets, IMAGE) is None


@given(st.integers(1, 40), st.lists(st.integers(1, 60), max_size=40))
def test_no_budget_cuts_a_picture_to_one_token_in_a_step_of_single_tokens(spare: int, wanted: list[int]) -> None:
    """The argument for the rule: a step that could take more, and has one token of each request, cut none of them."""
    sequences = max(len(wanted), 1)
    budget = sequences + spare
    assert refusal(ROOMY._replace(max_num_batched_tokens=budget, max_num_seqs=sequences), IMAGE) is None

    left, given_out = budget, []
    for tokens in wanted:
        given_out.append(min(tokens, left))
        left -= given_out[-1]

    assert set(given_out) != {1} or given_out == wanted
