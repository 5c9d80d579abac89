"""Regular expressions, in the subset that every engine reads alike and matches in linear time. Pure.

Literals, `.`, classes, groups, `|`, one quantifier after each, `^` at the start and `$` at the end. What JSON escapes
(quotes, backslashes, control characters) is no literal here: engines that write by a pattern would write it unescaped.
"""

import re
from typing import Final, NamedTuple

from gateway.schema.tree import Unusable, shown

MAX_LENGTH: Final = 500

_ESCAPED: Final = r"\\[dDwWsS\-$()*+./?@\[\]^{|}:,#&%=!' ]"
_CLASS: Final = rf"\[\^?(?:{_ESCAPED}|[^\[\]\\\x00-\x1f])+\]"
_LITERAL: Final = r"[^\\\[\](){}*+?|^$.\"\x00-\x1f]"
_TOKEN: Final = re.compile(
    rf"""
    (?P<anchor> \A\^ | \$\Z )
  | (?P<open> \( (?: \?: | (?!\?) ) )
  | (?P<close> \) )
  | (?P<bar> \| )
  | (?P<quantifier> [*+?] | \{{ (?P<least>\d{{1,6}}) (?P<range> , (?P<most>\d{{0,6}}) )? \}} )
  | (?P<character> \. | {_ESCAPED} | {_CLASS} | {_LITERAL} )
    """,
    re.VERBOSE | re.ASCII,
)
_REMEDY: Final = (
    "use plain characters, '.', classes, groups, '|' and single quantifiers, with '^' and '$' only at the ends; "
    "look-around, back-references, lazy quantifiers, flags, and quotes or backslashes as characters are not supported"
)


class _Piece(NamedTuple):
    """A part of a pattern: how many characters it can stand for, every repetition written out."""

    size: int = 0
    unbounded: bool = False
    repeatable: bool = False


def size(pattern: str) -> int:
    """How many character positions the pattern has when its repetitions are written out.

    Raises:
        Unusable: the pattern is too long or outside of the subset.
    """
    if len(pattern) > MAX_LENGTH:
        raise Unusable(f"a pattern in it is longer than {MAX_LENGTH} characters")
    groups: list[list[_Piece]] = [[]]
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise _unreadable(pattern, at)
        at = token.end()
        _take(token, groups)
    if len(groups) > 1:
        raise _unreadable(pattern, len(pattern))
    return _joined(groups[0]).size


def _take(token: re.Match[str], groups: list[list[_Piece]]) -> None:
    match token.lastgroup:
        case "open":
            groups.append([])
        case "close" if len(groups) > 1:
            inner = groups.pop()
            groups[-1].append(_joined(inner))
        case "quantifier" if groups[-1] and groups[-1][-1].repeatable:
            groups[-1].append(_repeated(groups[-1].pop(), token))
        case "character":
            groups[-1].append(_Piece(1, repeatable=True))
        case "anchor" | "bar":
            groups[-1].append(_Piece())
        case _:
            raise _unreadable(token.string, token.start())


def _joined(pieces: list[_Piece]) -> _Piece:
    return _Piece(sum(piece.size for piece in pieces), any(piece.unbounded for piece in pieces), repeatable=True)


def _repeated(piece: _Piece, quantifier: re.Match[str]) -> _Piece:
    unbounded = quantifier[0] in "*+" or quantifier[0].endswith(",}")
    if unbounded and piece.unbounded:
        raise Unusable(
            f"the pattern {shown(quantifier.string)} repeats a repetition without bound; "
            "give one of them an upper bound, as in '{1,20}'"
        )
    times = max([1, *(int(number) for number in (quantifier["least"], quantifier["most"]) if number)])
    return _Piece(piece.size * times, piece.unbounded or unbounded)


def _unreadable(pattern: str, at: int) -> Unusable:
    return Unusable(f"the pattern {shown(pattern)} cannot be used from character {at + 1} on; {_REMEDY}")
