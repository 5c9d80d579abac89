"""CogVLM in vLLM gives the tokens and log-probabilities of the reference, however its requests are cut and batched."""

from pathlib import Path

import pytest

from tests.engines.cogvlm.cases import CASES, WITH_PICTURE, Expected, as_ids, as_text, differences, expected
from tests.engines.cogvlm.reference import Reference, Rules
from tests.engines.cogvlm.rounds import Heard, ask
from tests.engines.cogvlm.tiny import Published

RUNNERS = {
    "for CPUs": ("drive", {}),
    "for GPUs": ("drive_interpreted", {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"}),
}
LARGE_PICTURE = 66  # tokens, boi and eoi among them
BROKEN = {
    "no experts": Rules(experts=False),
    "boi as language": Rules(boi_is_vision=False),
    "eoi as vision": Rules(eoi_is_vision=True),
    "plain positions": Rules(patches_share_position=False),
    "another rope base": Rules(rope_base=20000.0),
}


@pytest.fixture(scope="module")
def references(published: dict[str, Published]) -> dict[str, Reference]:
    """The reference with each of the checkpoints."""
    return {name: Reference(files) for name, files in published.items()}


@pytest.fixture(scope="module")
def answers(references: dict[str, Reference]) -> dict[str, list[Expected]]:
    """What is to be answered in all cases."""
    return {name: [expected(reference, case) for case in CASES] for name, reference in references.items()}


@pytest.fixture(scope="module", params=["cogvlm", "cogvlm2"])
def generation(request: pytest.FixtureRequest) -> str:
    """Each generation in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def whole(generation: str, prepared: dict[str, Path], references: dict[str, Reference]) -> Heard:
    """What vLLM tells on nearly its defaults: the cases one by one as texts, then all at once as ids."""
    alone = [[as_text(case)] for case in CASES]
    together = [as_ids(references[generation], case) for case in CASES]
    return ask(prepared[generation], [*alone, together], enable_prefix_caching=False)


def test_one_by_one(generation: str, whole: Heard, answers: dict[str, list[Expected]]) -> None:
    """A prompt in one piece, of a text that vLLM tokenises and puts the picture's tokens into."""
    told = [one for [one] in whole.rounds[:-1]]

    assert differences(told, answers[generation]) == []


def test_all_at_once(generation: str, whole: Heard, answers: dict[str, list[Expected]]) -> None:
    """Pictures and texts without one in the same steps, and answers of different lengths."""
    assert differences(whole.rounds[-1], answers[generation]) == []


@pytest.mark.parametrize("rules", BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_shows(generation: str, whole: Heard, rules: Rules, published: dict[str, Published]) -> None:
    """Were vLLM to break one of CogVLM's rules, no answer about a picture would stay the same."""
    broken = Reference(published[generation], rules)
    told = whole.rounds[-1][: len(WITH_PICTURE)]

    assert len(differences(told, [expected(broken, case) for case in WITH_PICTURE])) == len(WITH_PICTURE)


def test_in_chunks(
    prepared: dict[str, Path], references: dict[str, Reference], answers: dict[str, list[Expected]]
) -> None:
    """Steps of 16 tokens cut every picture, wherever they begin."""
    jobs = [as_ids(references["cogvlm"], case) for case in CASES]

    heard = ask(prepared["cogvlm"], [jobs], max_num_batched_tokens=16, max_num_seqs=8, enable_prefix_caching=False)

    assert differences(heard.rounds[0], answers["cogvlm"]) == []


@pytest.mark.parametrize("runner", RUNNERS)
def test_from_the_prefix_cache(
    runner: str, prepared: dict[str, Path], references: dict[str, Reference], answers: dict[str, list[Expected]]
) -> None:
    """The second time every prompt begins with cached blocks, the last of which mostly ends inside the picture.

    Steps of 16 tokens cut every picture here too; both of vLLM's model runners are asked.
    """
    jobs = [as_ids(references["cogvlm2_large"], case) for case in CASES]
    program, environ = RUNNERS[runner]

    heard = ask(
        prepared["cogvlm2_large"],
        [jobs, jobs],
        environ,
        program,
        max_num_batched_tokens=16,
        max_num_seqs=8,
        enable_prefix_caching=True,
    )
    first, second = heard.rounds

    assert differences(first, answers["cogvlm2_large"]) == []
    assert differences(second, answers["cogvlm2_large"]) == []
    assert not any(told.cached for told in first)
    assert all(told.cached for told in second[: len(WITH_PICTURE)])
    assert sum(1 < told.cached < LARGE_PICTURE for told in second) >= len(WITH_PICTURE) * 2 / 3


def test_in_two_processes(
    prepared: dict[str, Path], references: dict[str, Reference], answers: dict[str, list[Expected]]
) -> None:
    """Tensor parallel: each process has half of the heads, of the experts' weights, and of the vision model."""
    jobs = [as_ids(references["cogvlm2"], case) for case in CASES]
    a_core_each = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}

    heard = ask(prepared["cogvlm2"], [jobs], a_core_each, tensor_parallel_size=2, max_num_batched_tokens=32)

    assert differences(heard.rounds[0], answers["cogvlm2"]) == []
