"""Proxies as the daemon's environment names them: HTTPS_PROXY, HTTP_PROXY, NO_PROXY."""

from __future__ import annotations

from urllib.parse import urlsplit

from corten.registry.trust import host_of, is_loopback


def proxy_for(url: str) -> str:
    """The proxy that the daemon's environment names for a URL (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), "" for none."""
    import urllib.request

    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        return ""
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all", "")
    bypassed = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # unknown to the stubs
    if not proxy or bypassed(host_of(parts.netloc), proxies):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def shown_proxies() -> tuple[str, str, str]:
    """The environment's proxies for http and https, without their passwords, and the hosts that need none."""
    import urllib.request

    proxies = urllib.request.getproxies_environment()
    http, https = (_without_user(proxies.get(scheme) or proxies.get("all", "")) for scheme in ("http", "https"))
    return http, https, proxies.get("no", "")


def _without_user(url: str) -> str:
    user, at, rest = url.rpartition("@")
    return (
        f"{user.partition('://')[0]}://xxxxx:xxxxx@{rest}" if at and "://" in user else f"xxxxx@{rest}" if at else url
    )
