"""CogVLM under pressure: many requests of all lengths, a small budget of tokens, and too few blocks for all."""

from pathlib import Path
from random import Random

from tests.engines.cogvlm.cases import PICTURES, Case, as_ids, differences, expected
from tests.engines.cogvlm.reference import Reference, chat
from tests.engines.cogvlm.rounds import ask
from tests.engines.cogvlm.tiny import Published
from tests.engines.vllm.vocabulary import WORDS

REQUESTS = 60


def _cases(seed: int) -> list[Case]:
    """Draw questions of up to thirty words, three in four with a picture, and answers of up to forty tokens."""
    random = Random(seed)
    return [
        Case(
            chat(" ".join(random.choices(WORDS, k=random.randint(0, 30)))),
            random.choice(PICTURES) if random.random() < 0.75 else None,
            max_tokens=random.randint(1, 40),
        )
        for _ in range(REQUESTS)
    ]


def test_many_requests_with_little_room(published: dict[str, Published], prepared: dict[str, Path]) -> None:
    """Prompts are cut anywhere, prefixes are shared, requests lose their blocks and begin again; no answer changes."""
    reference = Reference(published["cogvlm2_large"])
    cases = _cases(seed=1)

    heard = ask(
        prepared["cogvlm2_large"],
        [[as_ids(reference, case) for case in cases]],
        max_num_batched_tokens=16,
        max_num_seqs=8,
        num_gpu_blocks_override=12,
        enable_prefix_caching=True,
    )

    assert differences(heard.rounds[0], [expected(reference, case) for case in cases]) == []
    assert heard.preemptions > 0
    assert any(told.cached for told in heard.rounds[0])
