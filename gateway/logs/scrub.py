"""What may never stand in the log, wherever it comes from. Pure.

Nothing of ours writes any of it. This is for what others write: libraries, and the engines, whose output is carried.
"""

import re

_DATA = re.compile(r"\b(data:[\w/+.-]{0,60}(?:;[\w=-]{0,60}){0,3},)[^\s\"'<>]*", re.IGNORECASE)
_BASE64 = re.compile(r"[\w+/=-]{65,}")  # a picture's, or a part of one; a digest is shorter
_KEY = re.compile(r"\b(ag-|sk-|hf_|bearer\s+|basic\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://[^\s\"'<>?#]*)[?#][^\s\"'<>]*", re.IGNORECASE)
_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://)[^\s/\"'<>@]+@", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def scrubbed(text: str) -> str:
    """The text without data URLs, keys, the queries and logins of URLs, and long base64."""
    if ":" in text or "=" in text:
        text = _DATA.sub(r"\1…", text)
        text = _LOGIN.sub(r"\1…@", text)
        text = _QUERY.sub(r"\1?…", text)
    return _BASE64.sub("…", _KEY.sub(r"\1…", text))


def printable(text: str) -> str:
    """The text with every control character, the end of a line aside, shown as its escape.

    Lines after the first are set in, so that none can pass for a line of the log.
    """
    if not text.isprintable():
        text = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text).replace("\n", "\n    ")
    return text
