"""Which service is asked, and whether it answers at all."""

import ipaddress
import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from candidfeed.errors import LoadError
from candidfeed.serving.load.answers import WrongAnswerError
from candidfeed.serving.load.client import Client
from candidfeed.serving.load.traffic import PATHS, Ask, Traffic

_ASKED_FIRST = 5


@dataclass(frozen=True, slots=True)
class Service:
    """Where it listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def read_url(url: str, *, loopback_only: bool) -> Service:
    """The service that a URL names, with or without `http://`.

    Raises:
        LoadError: it is no such URL, or one beyond this machine where that is not allowed.
    """
    try:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if parts.scheme != "http" or not host or parts.path.strip("/") or parts.query:
        raise LoadError(f"{url!r} is no URL of a service such as http://127.0.0.1:8000")
    if loopback_only and not _is_loopback(host):
        raise LoadError(
            f"{host} is not this machine; only load a service that is yours, with "
            "--yes-not-loopback"
        )
    return Service(host, port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def require_answers(client: Client, traffic: Traffic, service: Service) -> None:
    """Ask once as all will be asked, so that what would spoil every request is told before.

    Raises:
        LoadError: nothing listens there, or it does not answer with a slate that holds an item.
    """
    # Whoever has touched every item has an empty feed: of a few users one must have a slate.
    for user in range(_ASKED_FIRST):
        slate = await _good_answer(client, traffic, service, traffic.feed(user))
        if getattr(slate, "items", ()):
            break
    else:
        raise LoadError(f"{service}: the feeds of {_ASKED_FIRST} users are empty")
    if traffic.events_share:
        await _good_answer(client, traffic, service, traffic.reports())


def _message(body: bytes) -> str:
    """What a service says of a refusal, where it says it as ours does."""
    try:
        return f": {json.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return ", not 200; is it a feed service, and ready?"


async def _good_answer(client: Client, traffic: Traffic, service: Service, ask: Ask) -> object:
    path = PATHS[ask.kind]
    try:
        answer = await client.post(path, ask.body)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LoadError(f"{service}: no answer ({reason}); is `candidfeed serve` there?") from error
    if answer.status in (401, 403):
        raise LoadError(
            f"{service}{path} answered {answer.status}; name a key that may ask for feeds and send "
            "events with --key"
        )
    if answer.status != 200:
        raise LoadError(f"{service}{path} answered {answer.status}{_message(answer.body)}")
    try:
        return traffic.read(ask, answer.body)
    except WrongAnswerError as error:
        raise LoadError(f"{service}{path}: not what a feed service answers ({error})") from error
