"""Every spelling under which some application might look up a path. Pure; it knows no prices.

A path can be read as the server gave it, without the mount point, with encoded slashes kept inside
their segment, and as all that an application can make of these by folding case, taking off layers
of encoding, turning back-slashes, collapsing slashes, dropping path parameters and resolving dot
segments. An application does some of this and not the rest, so any of it is tried in any order.
"""

import re
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote

from paywall.protocol.errors import Reason, Refused
from paywall.protocol.limits import MAX_PATH_BYTES, MAX_PATH_DECODINGS, MAX_PATH_FORMS

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, of which routers have their own ideas, and what no URL can carry."""
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
_SLASHES = re.compile("/{2,}")
_PATH_PARAMETERS = re.compile(r";[^/]*")
_PLAIN = re.compile(r"(?:/[a-z0-9_~-]+)+", re.ASCII)
"""A path that has one spelling only: no case, dots, escapes, doubled or trailing slashes."""


Spelling = tuple[tuple[str, bool], ...]
"""(form, is canonical): a path as it stands, and as it stands inside the mount point."""


def spellings(path: str, raw_path: bytes, root_path: str) -> "set[Spelling]":
    """Every form of a path under which an application might look it up."""
    if len(path) > MAX_PATH_BYTES or _UNSAFE.search(path):
        raise Refused(Reason.MALFORMED_PATH)
    root = root_path.rstrip("/")
    given = {path}
    if b"%" in raw_path:
        given.add(_decode_inside(raw_path.decode("latin-1")))
    forms = {inner for form in given for inner in _with_inside(form, root)}
    canonical = set().union(*(_canonical(form) for form in forms))
    folded = fold(root)
    return {tuple((form, False) for form in _with_inside(form, root)) for form in given} | {
        tuple((form, True) for form in _with_inside(form, folded)) for form in canonical
    }


def _with_inside(form: str, root: str) -> "tuple[str, ...]":
    """The form, and what is left of it inside the mount point."""
    if root and form.startswith(root):
        return form, form[len(root) :] or "/"
    return (form,)


def _canonical(path: str) -> "set[str]":
    """What a path may become in an application that tidies it up, in any way and any order."""
    if _PLAIN.fullmatch(path):
        return {path}
    _refuse_layers(path)
    found: set[str] = set()
    todo = [fold(path)]
    while todo:
        form = todo.pop()
        if form in found:
            continue
        if len(found) == MAX_PATH_FORMS or _UNSAFE.search(form):
            raise Refused(Reason.MALFORMED_PATH)
        found.add(form)
        todo += [fold(step(form)) for step in _TIDYING]
    return {spelling for form in found for spelling in (form, "/" + form.strip("/"))}


def _refuse_layers(path: str) -> None:
    for _ in range(MAX_PATH_DECODINGS):
        path, before = unquote(path), path
        if path == before:
            return
    raise Refused(Reason.MALFORMED_PATH, "It is encoded too many times.")


def fold(path: str) -> str:
    """Without the differences of case and of look-alike letters."""
    if not path.isascii():
        path = normalize("NFKC", path)
    return path.casefold()


def _decode_inside(path: str) -> str:
    """Decoded within its segments: an encoded slash is a letter like others."""
    return unquote(_ENCODED_SLASH.sub("_", path))


def turn_slashes(path: str) -> str:
    return path.replace("\\", "/")


def collapse_slashes(path: str) -> str:
    return _SLASHES.sub("/", path)


def _drop_parameters(path: str) -> str:
    return _PATH_PARAMETERS.sub("", path)


def _resolve_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.removeprefix("/").split("/")
    for segment in segments:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if kept and segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


_TIDYING: Final = (
    unquote,
    _decode_inside,
    turn_slashes,
    collapse_slashes,
    _drop_parameters,
    _resolve_dots,
)
