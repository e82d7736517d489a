"""URLs that registries send: whose they are, where they lead, how they are shown."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from corten.errors import InvalidParameter
from corten.registry.failures import Unreachable
from corten.registry.trust import netloc_of


def origin_of(url: str) -> tuple[str, str]:
    """(scheme, host with port): who a secret was given for."""
    return urlsplit(url).scheme, netloc_of(url)


def redirected(url: str, target: str) -> str:
    """Where a redirect or an upload's ``Location`` leads.

    Errors: Unreachable for one that leads from HTTPS to HTTP, or is no URL.
    """
    try:
        whole = urljoin(url, target)
        netloc_of(whole)
    except (InvalidParameter, ValueError):
        raise Unreachable(f"{shown_url(url)}: redirected to no usable URL: {target[:100]!r}", passing=False) from None
    if urlsplit(url).scheme == "https" and urlsplit(whole).scheme != "https":
        raise Unreachable(
            f"{shown_url(url)}: redirected from HTTPS to HTTP ({shown_url(whole)}): refused", passing=False
        )
    return whole


def shown_url(url: str) -> str:
    """A URL for messages: what it was signed with stays out of logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"[:300]
