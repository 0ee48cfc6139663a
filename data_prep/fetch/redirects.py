"""One attempt's way from a listed URL to the response: where redirects lead, with which cookies and which password."""

from __future__ import annotations

import base64
import urllib.error
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

from data_prep.fetch.failure import FetchFailed
from data_prep.fetch.http_response import Ask
from data_prep.lists.exclusion import excluded_domain
from data_prep.lists.web_url import BadUrl, login_of, normalise_url, redirect_target

REDIRECTS = {300, 301, 302, 303, 307, 308}
MAX_REDIRECTS = 10


class Visit:
    """Starts at a listed URL. `request` makes a request for the current URL, `follow` moves on to the next.

    A visit belongs to one attempt at one row: nothing that a server gave reaches another row. Cookies go back as their
    domain allows, and `user:password@` goes only to the origin in whose URL it stood.

    Args:
        deadline: of `time.monotonic`, for all redirects together.
    Raises: BadUrl.
    """

    def __init__(self, url: str, headers: dict[str, str], deadline: float, excluded_domains: frozenset[str]) -> None:
        self._headers = headers
        self._deadline = deadline
        self._excluded = excluded_domains
        self._cookies = CookieJar(
            # A cookie without a domain is its host's alone, and none is for all of .co.uk.
            DefaultCookiePolicy(strict_domain=True, strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)
        )
        self._logins: dict[tuple[str, str], str] = {}
        self._redirects = 0
        self.url = ""
        self._go_to(url)

    def request(self) -> Ask:
        """The next request."""
        request = Ask(self.url, dict(self._headers), self._deadline)
        self._cookies.add_cookie_header(request)
        if login := self._logins.get(_origin(self.url)):
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        return request

    def follow(self, answer: urllib.error.HTTPError, request: Ask) -> None:
        """Move on to where a redirect leads.

        Raises: `answer` when it is no redirect; FetchFailed for one that leads too far, nowhere, or to a host that may
            not be asked.
        """
        location = answer.headers.get("Location")
        if answer.code not in REDIRECTS or location is None:
            raise answer
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise FetchFailed("bad_redirect", f"more than {MAX_REDIRECTS} redirects", may_pass=False)
        self._cookies.extract_cookies(answer, request)  # type: ignore[arg-type]  # of a response it takes info()
        try:
            self._go_to(redirect_target(self.url, location))
        except BadUrl as error:
            raise FetchFailed("bad_redirect", error, may_pass=False) from error
        if found := excluded_domain(urlsplit(self.url).hostname or "", self._excluded):
            raise FetchFailed("excluded_domain", f"a redirect to {found}", may_pass=False)

    def _go_to(self, url: str) -> None:
        self.url = normalise_url(url)
        if login := login_of(url):
            self._logins[_origin(self.url)] = login


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
