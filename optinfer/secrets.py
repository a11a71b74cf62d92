"""What may not leave this process, and the one place that takes it out: passwords, tokens, keys, signed queries.

Whatever is said passes here: our errors as they become text (errors.py), the program's streams (cli), what a person or
a file gets of an error nobody foresaw (system/last_resort), journal and MLflow (tracking/recorder), webhook and lineage
(commands/news), every answer of a command, the manifest.

A secret is known by where it stands (in a URL, after a name), by its shape, or because it was met before: in this
process's environment, on its command line, in its job file. What was met is found alone, too, where a library quotes
it: as it is, percent-decoded and encoded, escaped in JSON. The trade-off: letters of one case alone, up to eleven of
them, or five characters are only hidden where they stand in a URL or after a name; anywhere else it could be any word.

Patterns are compiled when a text has a word that they ask for: most have none, and so `--help` need not wait.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

T = TypeVar("T")

_HIDDEN = "..."
_SHORTEST, _SHORTEST_WORD, _NO_LIMITS_FROM = 6, 12, 16
# What has a colon in it goes up to the last @: keys of AWS hold slashes. But a port is no password.
_USER = r"(?:[^\s'\"/:@]*:(?!\d{2,5}/)[^\s'\"]*|[^/\s@'\"]+)"
_USERINFO = rf"://{_USER}@"
_QUERY = r"(\w://[^\s?'\"]+)\?(?!\.\.\.)[^\s'\")]+"
_URL = rf"\w://(?:({_USER})@)?[^\s?'\"]*(?:\?([^\s'\")]+))?"
# `tokens` and `tokenizer` are words of models; what ends so names a place or a kind, no secret.
_TELLING = r"(?:TOKEN(?!S|IZ)|PASSWORD|PASSWD|SECRET|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)"
_PUBLIC = (
    r"AWS_(?!(?:DEFAULT_)?(?:REGION|PROFILE|OUTPUT)|ENDPOINT|USE_|EC2|MAX|RETRY|SDK|S3|STS|CA_|PAGER|CONFIG|SHARED|ALLOW"
    r"|REQUEST|RESPONSE|ACCOUNT|ROLE|CONTAINER_CRED|NO_SIGN|CLI|LAMBDA|DATA|METADATA|CONDITIONAL|IGNORE|WEB_IDENTITY)"
)
_ENDS = "".join(rf"(?<!{end})" for end in ("PATH", "FILE", "ENV", "NAME", "MODE", "URL", "TYPE", "IDS", "COUNT", "REF"))
_SECRET_NAME = rf"(?:{_PUBLIC}\w+|[\w-]*{_TELLING}[\w-]*){_ENDS}"
# What is in every such name, whatever its case: parts of words, as there are letters that only `re` takes for an i.
_IN_NAMES = ("aws_", "token", "passw", "secret", "credent", "key")
# Neither what is hidden already, so that text may pass here twice, nor what is no secret whatever its name.
_LEFT = rf"(?!{re.escape(_HIDDEN)}|(?:true|false|none|null|yes|no|\d{{1,7}})\b)"
_BARE = r"(?:\\(?![\"'])|[^\s\"'\\,;&)}\]])+"
_QUOTED = rf"(?P<quote>\\?[\"']){_LEFT}(?P<quoted>.+?)(?P=quote)"
_NAMED = rf"""(?<![\w-]){_SECRET_NAME}
    (?: (?:\\?["'])?\s?=\s? (?:{_QUOTED}|{_LEFT}(?P<bare>{_BARE}))
      | \\?["']\s?:\s? {_QUOTED.replace("quote", "json")}
      | :\s (?![`~/<{{$]|[A-Z]?[a-z]*[.,;:]?(?:\s|$)) {_LEFT}(?P<prose>{_BARE}) )"""
_SHAPES = (
    r"\b(?:A[KS]IA[0-9A-Z]{16}|whsec_[\w+/=-]{8,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_\w{20,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+)"
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}|(?<=[Bb]asic )[A-Za-z0-9+/]{12,}={0,2}(?![\w-])"
)
_IN_SHAPES = ("KIA", "SIA", "whsec_", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "eyJ", "earer ", "asic ")
_met: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Tell whether what has this name, a variable or a key, is a secret."""
    return _may_name(name) and _compiled(_SECRET_NAME, re.IGNORECASE).fullmatch(name) is not None


def learn(value: object, name: str = "") -> None:
    """Remember the secrets in what this process was given, to find them again wherever they are quoted.

    Args:
        value: a text, or mappings and lists of them.
        name: of the value.
    """
    _met.update(_found(value, name))


def scrubbed(text: str) -> str:
    """Return a text without what is secret in it."""
    return _without(text, _known())


def clean(value: T) -> T:
    """Return a value, with texts however deep in mappings, lists and dataclasses, without what is secret in them."""
    cleaned: T = _cleaned(value, _known())
    return cleaned


def redact(url: str) -> str:
    """Strip `user:password@` and the query string, so that a URL may be logged."""
    if "://" not in url:
        return url
    try:
        urlsplit(url)
    except ValueError:  # half an IPv6 address, say: what could be a secret in it nobody knows
        return f"{url.partition('://')[0]}://{_HIDDEN}"
    return re.split(r"[?#]", _compiled(_USERINFO).sub("://", url))[0]


def without_secrets(url: str, text: str) -> str:
    """Return the first line of an error, cleaned where it quotes the URL that was asked, password, query and all."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return scrubbed(text.replace(url, redact(url))).partition("\n")[0][:200]
    for secret in (parts.netloc.rpartition("@")[0], parts.query):
        text = text.replace(secret, _HIDDEN) if secret else text
    return scrubbed(text).partition("\n")[0][:200]


def _without(text: str, known: re.Pattern[str] | None) -> str:
    if known:
        text = known.sub(_HIDDEN, text)
    if "://" in text:
        text = _compiled(_QUERY).sub(rf"\1?{_HIDDEN}", _compiled(_USERINFO).sub(f"://{_HIDDEN}@", text))
    if _may_name(text):
        text = _compiled(_NAMED, re.IGNORECASE | re.VERBOSE).sub(_hidden, text)
    if any(part in text for part in _IN_SHAPES):
        text = _compiled(_SHAPES).sub(_HIDDEN, text)
    return text


@cache
def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(pattern, flags)


def _may_name(text: str) -> bool:
    """Tell whether a text may have the name of a secret in it, in a fraction of the time that looking for one takes."""
    folded = text.casefold()
    return any(part in folded for part in _IN_NAMES)


def _hidden(found: re.Match[str]) -> str:
    start, end = found.span(_group(found))
    begun = found.start()
    return f"{found[0][: start - begun]}{_HIDDEN}{found[0][end - begun :]}"


def _group(found: re.Match[str]) -> str:
    return next(name for name in ("quoted", "jsond", "bare", "prose") if found[name] is not None)


def _cleaned(value: Any, known: re.Pattern[str] | None) -> Any:
    if isinstance(value, str):
        return _without(value, known)
    if isinstance(value, Mapping):
        return {
            key: _HIDDEN if isinstance(inner, str) and inner and is_secret_name(str(key)) else _cleaned(inner, known)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_cleaned(inner, known) for inner in value)
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        import copy

        copied = copy.copy(value)
        for name in value.__dataclass_fields__:  # no `replace`: a constructor may take something else
            if hasattr(value, name):
                object.__setattr__(copied, name, _cleaned(getattr(value, name), known))
        return copied
    return value


def _known() -> re.Pattern[str] | None:
    """Return what finds every secret that was met, or is in the environment now; the longest first."""
    return _pattern(frozenset(_met), tuple(os.environ.items()))


@lru_cache(maxsize=1)
def _pattern(met: frozenset[str], environment: tuple[tuple[str, str], ...]) -> re.Pattern[str] | None:
    forms = {form for secret in {*met, *_found(dict(environment))} for form in _forms(secret)}
    if not forms:
        return None
    return re.compile("|".join(_limited(form) for form in sorted(forms, key=lambda form: (-len(form), form))))


def _limited(form: str) -> str:
    whole = re.escape(form)
    return whole if len(form) >= _NO_LIMITS_FROM else rf"(?<![A-Za-z0-9]){whole}(?![A-Za-z0-9])"


def _forms(secret: str) -> set[str]:
    import json

    plain = unquote(secret)
    forms = {secret, plain, quote(secret, safe=""), quote(plain, safe=""), quote(plain)}
    return forms | {json.dumps(form)[1:-1] for form in (secret, plain)}


def _found(value: object, name: str = "") -> Iterator[str]:
    """Yield the secrets in a value that are long enough to be found alone."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _found(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _found(inner, name)
    elif isinstance(value, str):
        if is_secret_name(name) and not _is_path(value):
            yield from filter(_tells, (value, value.strip()))
        yield from filter(_tells, _in_text(value))


def _in_text(text: str) -> Iterator[str]:
    for named in _compiled(_NAMED, re.IGNORECASE | re.VERBOSE).finditer(text) if _may_name(text) else ():
        yield named[_group(named)]
    for userinfo, query in _compiled(_URL).findall(text) if "://" in text else ():
        user, colon, password = userinfo.partition(":")
        yield from (user, password)
        if colon:
            import base64

            yield base64.b64encode(unquote(userinfo).encode()).decode()
        yield from (pair.partition("=")[2] for pair in query.split("&"))


def _tells(secret: str) -> bool:
    """Tell a secret that can be looked for alone from a word that could stand anywhere."""
    if len(secret) < _SHORTEST or re.fullmatch(r"[\d.:/_-]{,10}", secret):
        return False
    return len(secret) >= _SHORTEST_WORD or re.fullmatch(r"[a-z_.-]*|[A-Z_.-]*", secret) is None


def _is_path(value: str) -> bool:
    return value[:1] in ("/", "~", ".") and os.path.exists(os.path.expanduser(value))
