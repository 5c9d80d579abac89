"""From tokens to text, as certain as it can be at each moment. Pure.

A streamed caption may only say what later tokens cannot change. Three things are uncertain for a while: the last word
(`##s` may follow), a beginning that the clean-up may remove, and an ending that may become a stop sequence.
"""

import re
from collections.abc import Sequence

CONTINUES = "##"
SENTENCE_SPACES = (" .", " ?", " !", " ,")
CONTRACTIONS = (" n't", " 'm", " 's", " 've", " 're")

ARTICLE = re.compile(r"an?")
SOUNDS_LIKE_VOWEL = re.compile(r"(?!uni|use|usu|eu|ewe|one\b|once\b)[aeiou]|hour|honest|heir")
LEAD = r"(?P<lead>(?:there (?:is|are) )?)(?P<article>(?:an? )?)"
ARTEFACT = re.compile(rf"^{LEAD}(?:araf\w* )+(?=(?P<next>\w+))")
UNDECIDED = re.compile(r"^(?:there(?: (?:is|are))?|(?:there (?:is|are) )?(?:an?|(?:an? )?araf\w*(?: araf\w*)*))?$")


def join(tokens: Sequence[str]) -> str:
    """The text of WordPiece tokens, spaced as BERT's own tokenizer does it with its clean-up on."""
    text = "".join(_glued(token, first=not at) for at, token in enumerate(tokens))
    for ending in SENTENCE_SPACES:
        text = text.replace(ending, ending[1:])
    text = text.replace(" ' ", "'")
    for contraction in CONTRACTIONS:
        text = text.replace(contraction, contraction[1:])
    return text


def certain(text: str) -> str:
    """The part of a joined text that more tokens cannot change.

    The last word may grow, and words that an apostrophe follows may be drawn together with what comes next.
    """
    end = text.rfind(" ")
    while end > 0 and text.startswith(" '", end):
        end = text.rfind(" ", 0, end)
    return text[: max(end, 0)]


def without_artefact(text: str) -> str:
    """Removes the "arafed" that BLIP's large checkpoint likes to begin with, and nothing else.

    "arafed man in a hat" becomes "man in a hat", "there is an araffe dog" "there is a dog": a leading `araf...` word
    goes, also after a, an, "there is" and "there are", and the article is made to fit the word that follows. A
    caption that would be left empty stays as it is.
    """
    found = ARTEFACT.match(text)
    if not found:
        return text
    article = found["article"] and ("an " if SOUNDS_LIKE_VOWEL.match(found["next"]) else "a ")
    return found["lead"] + article + text[found.end() :]


class Writer:
    """Turns one choice's tokens into text; everything it gives out is final.

    `prefix` is put before the caption. Text ends before the first of `stops`.
    """

    def __init__(self, *, prefix: str = "", stops: Sequence[str] = (), keep_artefacts: bool = False) -> None:
        self._prefix = prefix
        self._stops = stops
        self._keep_artefacts = keep_artefacts
        self._tokens: list[str] = []
        self._given = 0
        self.stopped = False

    def add(self, token: str) -> str:
        """Takes the next token; what has become certain by it."""
        self._tokens.append(token)
        text = certain(join(self._tokens))
        if not self._keep_artefacts and UNDECIDED.match(text):
            return ""
        return self._give(text, final=False)

    def finish(self) -> str:
        """The rest: no more tokens will come."""
        return self._give(join(self._tokens), final=True)

    def _give(self, text: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        words = text if self._keep_artefacts else without_artefact(text)
        lead = self._lead(words)
        whole = lead + words
        end = self._end(whole, len(lead), final=final)
        given = whole[self._given : end]
        self._given += len(given)
        return given

    def _lead(self, words: str) -> str:
        """What stands before the caption's own words."""
        if not self._prefix or not words:
            return self._prefix
        glued = self._tokens[0].startswith(CONTINUES) or words[0] in ".,?!'"
        return self._prefix if glued else f"{self._prefix} "

    def _end(self, whole: str, start: int, *, final: bool) -> int:
        """Where the text ends that may be given: before a stop sequence or what may become one, never in a space."""
        found = [at for at in (whole.find(stop, start) for stop in self._stops) if at >= 0]
        self.stopped = bool(found)
        uncertain = 0 if final else self._begun(whole[start:])
        end = min(found, default=len(whole) - uncertain)
        return max(len(whole[:end].rstrip()), self._given)

    def _begun(self, words: str) -> int:
        """The length of the longest ending that is the beginning of a stop sequence."""
        lengths = (size for stop in self._stops for size in range(1, len(stop)) if words.endswith(stop[:size]))
        return max(lengths, default=0)


def _glued(token: str, *, first: bool) -> str:
    if token.startswith(CONTINUES):
        return token.removeprefix(CONTINUES)
    return token if first else f" {token}"
