"""Paths and fsspec URLs as text: their parts and credentials.

A URL is a plain path, `scheme://...`, or a chain such as `zip://folder::https://host/archive.zip`. Credentials are the
user and password before the host, and everything after `?` or `#`. They are needed to open a URL, but must never be
shown: `masked` removes them from any text.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import PurePath
from urllib.parse import quote, unquote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
# File systems that read from another one: archives have their own paths, caches the paths of the cached files.
_ARCHIVES = frozenset({"zip", "tar", "libarchive", "dir", "reference"})
_CACHES = frozenset({"simplecache", "filecache", "blockcache", "cached"})
_WITHOUT_HOST = _ARCHIVES | {"memory", "file", "local"}
_WEB = ("http://", "https://")

_MASK = "***"
# A user and password, where a number after the colon is a port; or a user alone, which may be a token. The user of an
# Azure URL is a container; paths in memory, on a disk and in archives have no user.
_USER_ALONE = (
    r"(?<!abfs://)(?<!abfss://)(?<!wasb://)(?<!wasbs://)(?<!memory://)(?<!file://)(?<!local://)"
    r"(?<!zip://)(?<!tar://)[^\s/@:]+@"
)
_USER_INFO = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.\-]*://)(?:"
    r"[^\s/@:]*:(?!\d+(?:[/?#]|$))(?:(?!://)\S)*@"
    # With spaces, up to the first @ of a line: what follows may be another sentence with one.
    r"|[^\s/@:]*:(?!\d+(?:[/?#\s]|$))(?!\s)(?:(?!://)[^\r\n'\"<>@])*@"
    rf"|{_USER_ALONE})",
    re.IGNORECASE,
)
# The same at the start of a text that is one URL: any character may be a part of the password.
_USER_INFO_OF_URL = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.\-]*://)(?:[^/@:]*:(?!\d+(?:[/?#]|$)).*@|{_USER_ALONE})", re.IGNORECASE | re.DOTALL
)
_WEB_QUERY = re.compile(r"(https?://[^\s?#'\"<>]*)[?#][^\s'\"<>]*[^\s'\"<>:.,;)\]]", re.IGNORECASE)
_SECRET_PARAMETER = re.compile(
    r"([?&;][\w.\-%]*(?:sig|token|secret|passw|pwd|key|credential|auth|jwt)[\w.\-%]*=)[^\s&;'\"<>#]*[^\s&;'\"<>#:.,)\]]",
    re.IGNORECASE,
)
_URL_END = re.compile(r"[\s'\"<>]")
_SHORTEST_SECRET = 6
_learnt: set[str] = set()
_user_infos: dict[str, str] = {}


def scheme(url: str) -> str:
    """The lower-case scheme of a URL, of the first link for a chain; empty for a plain path."""
    if is_chain(url):
        return url.split("::", 1)[0].split("://", 1)[0]
    found = _SCHEME.match(url)
    return found[1].lower() if found else ""


def is_chain(url: str) -> bool:
    """Whether a URL names a file system inside another one. In other URLs, `::` is part of the path."""
    link, colons, _ = url.partition("::")
    return bool(colons) and link.split("://", 1)[0] in _ARCHIVES | _CACHES


def join(url: str, *parts: str) -> str:
    """`url` with further path parts: appended to the first path of a chain, and before the query of a web address."""
    path, rest = _split(url)
    return posixpath.join(path, *parts) + rest


def path_of(url: str) -> str:
    """`url` without the other links of its chain, and without the query of a web address."""
    return _split(url)[0]


def name_of(url: str) -> str:
    """The last part of the path of a URL without dots around it, such as `model` for `s3://user:password@bucket/model`.

    Empty if the path has no name, as in `s3://bucket`, `/` and `..`: a host may not be shown with its credentials.
    """
    path = path_of(url).rpartition("::")[2] if is_chain(url) else path_of(url)
    if kind := scheme(path):
        path = re.split("[?#]", _USER_INFO_OF_URL.sub(r"\g<scheme>", path, count=1))[0].split("://", 1)[1]
        path = path if kind in _WITHOUT_HOST else path.partition("/")[2]
    return PurePath(path).name.strip(".")


def _split(url: str) -> tuple[str, str]:
    """A URL up to the end of its path, and the rest."""
    if is_chain(url):
        link, _, others = url.partition("::")
        if link.split("://", 1)[0] in _CACHES:
            path, rest = _split(others)
            return f"{link}::{path}", rest
        return link if "://" in link else f"{link}://", f"::{others}"
    if url.lower().startswith(_WEB):
        path = re.split(r"[?#]", url, maxsplit=1)[0]
        return path, url[len(path) :]
    return url, ""


def masked(text: str) -> str:
    """`text` with `***` for the credentials of every URL in it, and for remembered credentials."""
    secrets = sorted(_learnt, key=len, reverse=True)
    for secret in filter(_URL_END.search, secrets):  # the patterns would only match its beginning
        text = text.replace(secret, _MASK)
    text = _USER_INFO.sub(rf"\g<scheme>{_MASK}@", text)
    text = _WEB_QUERY.sub(rf"\1?{_MASK}", text)
    text = _SECRET_PARAMETER.sub(rf"\1{_MASK}", text)
    for secret in secrets:
        text = text.replace(secret, _MASK)
    return text


def remember_credentials(url: str) -> None:
    """Remember the credentials of a URL, so that `masked` also finds them without the URL."""
    for link in url.split("::") if is_chain(url) else [url]:
        user_info, query = _user_info(link), _split(link)[1]
        if user_info and user_info != _MASK:
            _user_infos[_host(link)] = user_info
        password = user_info.partition(":")[2]
        values = [part.partition("=")[2] for part in re.split("[?#&;]", query)]
        # If a password contains one of /?#, libraries interpret the part before it as the host.
        parts = [part for each in (user_info, password) for part in re.split("[/?#]", each)]
        found = [user_info, password, *parts, query[1:], *values]
        _learnt.update(form for each in found for form in _forms(each) if len(form) >= _SHORTEST_SECRET)


def _forms(secret: str) -> tuple[str, ...]:
    """How libraries, errors and JSON repeat it."""
    return secret, unquote(secret), quote(secret), quote(secret, ""), repr(secret)[1:-1], json.dumps(secret)[1:-1]


def masked_value(value: str) -> str:
    """`masked` for a text that is one URL, or none: it ends with the text, whatever characters it holds."""
    remember_credentials(value)
    return masked(value)


def unmasked(url: str) -> str:
    """A masked URL with the user and password remembered for its host, or without any."""
    if _MASK not in url:
        return url
    links = url.split("::") if is_chain(url) else [url]
    return "::".join(_unmasked_link(link) for link in links)


def _unmasked_link(link: str) -> str:
    if f"://{_MASK}@" in link:
        known = _user_infos.get(_host(link), "")
        link = link.replace(f"://{_MASK}@", f"://{known}@" if known else "://", 1)
    return link.removesuffix(f"?{_MASK}") if link.lower().startswith(_WEB) else link


def _user_info(link: str) -> str:
    """User and password of a URL; empty if it has none."""
    found = _USER_INFO_OF_URL.match(link)
    return found[0][len(found["scheme"]) : -1] if found else ""


def _host(link: str) -> str:
    """Scheme and host of a URL, without the user."""
    bare = _USER_INFO_OF_URL.sub(r"\g<scheme>", link, count=1)
    return "/".join(re.split("[/?#]", bare)[:3])
