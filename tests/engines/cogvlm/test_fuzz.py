"""CogVLM under pressure: many requests of all lengths, a small budget of tokens, and too few blocks for all."""

from pathlib import Path
from random import Random

import pytest

from tests.engines.cogvlm.cases import PICTURES, Case, as_ids, differences, expected
from tests.engines.cogvlm.reference import Reference, chat
from tests.engines.cogvlm.rounds import ask
from tests.engines.cogvlm.tiny import Published
from tests.engines.vllm.vocabulary import WORDS

REQUESTS = 60
ONE_TEXT = Random(0).choices(WORDS, k=40)


def _cases(seed: int, *, alike: bool) -> list[Case]:
    """Draw questions of up to thirty words, three in four with a picture, and answers of up to forty tokens.

    Where they are to be alike, each is the beginning of one text, and answers are longer.
    """
    random = Random(seed)

    def words() -> list[str]:
        return ONE_TEXT[: random.randint(0, 40)] if alike else random.choices(WORDS, k=random.randint(0, 30))

    return [
        Case(
            chat(" ".join(words())),
            random.choice(PICTURES) if random.random() < 0.75 else None,
            max_tokens=random.randint(1, 60 if alike else 40),
        )
        for _ in range(REQUESTS)
    ]


@pytest.mark.parametrize(("seed", "tokens", "alike"), [(1, 16, False), (8, 9, True)], ids=["unlike", "alike"])
def test_many_requests_with_little_room(
    published: dict[str, Published], prepared: dict[str, Path], seed: int, tokens: int, alike: bool
) -> None:
    """Prompts are cut anywhere, prefixes are shared, requests lose their blocks and begin again; no answer changes.

    Questions that are alike share whole pictures, which a request may find in the cache, and lose.
    """
    reference = Reference(published["cogvlm2_large"])
    cases = _cases(seed, alike=alike)

    heard = ask(
        prepared["cogvlm2_large"],
        [[as_ids(reference, case) for case in cases]],
        max_num_batched_tokens=tokens,
        max_num_seqs=8,
        num_gpu_blocks_override=12,
        enable_prefix_caching=True,
    )

    assert differences(heard.rounds[0], [expected(reference, case) for case in cases]) == []
    assert heard.preemptions > 0
    assert any(told.cached for told in heard.rounds[0])
