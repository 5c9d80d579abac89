"""Where tokens stand and who computes them, against the authors' rules told in other words."""

from hypothesis import given
from hypothesis import strategies as st

from engines.cogvlm.positions import Span, positions


@st.composite
def prompts(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Pictures of three tokens and more, each behind some text, and how many tokens there are in all."""
    spans, end = [], 0
    for text, length in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(3, 30)), max_size=3)):
        spans.append((end + text, length))
        end += text + length
    return spans, end + draw(st.integers(0 if spans else 1, 9))


def authors(spans: list[Span], tokens: int) -> tuple[list[bool], list[int]]:
    """Who is the vision expert's, and all positions, token by token from the types of a token and its neighbours."""
    seen = [any(first <= index < first + length for first, length in spans) for index in range(tokens)]
    followed = [*seen[1:], False]
    after = [False, *seen[:-1]]
    expert = [here and there for here, there in zip(seen, followed, strict=True)]
    inner = [all(three) for three in zip(after, seen, followed, strict=True)]  # neither the first nor the last
    position, placed = -1, []
    for index, patch in enumerate(inner):
        position += not (patch and index > 0 and inner[index - 1])
        placed.append(position)
    return expert, placed


@given(prompts())
def test_tokens_stand_where_the_authors_put_them(prompt: tuple[list[Span], int]) -> None:
    """The rotary position and the expert of each token are theirs, and the answer goes on where the prompt ends."""
    spans, tokens = prompt

    (rotary, expert, third), delta = positions(spans, tokens)

    is_vision, placed = authors(spans, tokens)
    assert rotary == third == placed
    assert [position + seen for position, seen in zip(placed, is_vision, strict=True)] == expert
    assert tokens + delta == placed[-1] + 1


def test_a_prompt_by_hand() -> None:
    """Begin, a picture of four patches between its two tokens, two words."""
    rows, delta = positions([(1, 6)], 9)

    assert rows == [[0, 1, 2, 2, 2, 2, 3, 4, 5], [0, 2, 3, 3, 3, 3, 3, 4, 5], [0, 1, 2, 2, 2, 2, 3, 4, 5]]
    assert delta == -3


def test_a_prompt_without_a_picture_is_ordinary() -> None:
    """All of it is language's, and counts."""
    assert positions([], 3) == ([[0, 1, 2]] * 3, 0)
