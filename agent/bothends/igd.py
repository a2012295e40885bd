"""A router's UPnP, once it was found: what it is asked, by way of async-upnp-client.

Loading this module takes half a second, for the library and the HTTP client it stands
on; `upnp` does that in a thread, and only where a router answered.

The router is not trusted. Everything that is fetched goes through `_Requester`, which
speaks to the router's own address and to nobody else, follows nobody elsewhere, and
reads so much and no more. The descriptions of its services are not fetched at all:
what the actions look like stands in the specification (UPnP Forum, WANIPConnection:1),
and a router cannot lie about that.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Mapping as Words
from typing import Any

import aiohttp
import yarl
from async_upnp_client.client import UpnpRequester, UpnpService
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.exceptions import UpnpActionError

from bothends_protocol.evidence import Mapping
from bothends_protocol.portmap import outside_address

from .port_control import Link, NoAnswer, Refusal

__all__ = ["PERMANENT_ONLY", "ActionError", "Igd"]

# The library writes what a router said into its log, and a log may be a screen.
_log = logging.getLogger("async_upnp_client")
_log.addHandler(logging.NullHandler())
_log.propagate = False

MAX_BODY = 256 * 1024
"""Bytes of one answer: descriptions of real routers have up to 40 KiB."""

MAX_SERVICES = 64
"""Services that a description may name: those of real routers name up to a dozen."""

MAX_CONNECTIONS = 4
"""Ways to the Internet that are asked: a router has one, and sometimes one that is idle."""

MAX_SAID = 80
"""Letters of a router's own words that are kept."""

NO_SUCH_ENTRY = 714
PERMANENT_ONLY = 725
"""UPnP errors: there is no such mapping; mappings are for ever or not at all
(WANIPConnection:1, 2.4.16 and 2.4.18)."""

_CONNECTIONS = ("WANIPConnection:", "WANPPPConnection:")
_ANY_REMOTE = ""
"""Anybody may connect (WANIPConnection:1, 2.2.16)."""

_SECONDS_32 = 2**32


class ActionError(Refusal):
    """The router refused an action; `code` is the UPnP error, None where it gave none."""

    def __init__(self, code: int | None, said: str) -> None:
        words = f": {said}" if said else ""
        super().__init__(f"the router refused{words} (UPnP error {code or 'without a number'})")
        self.code = code


class Igd:
    """The router as an Internet gateway device. `close` it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._requester = _Requester(link)
        self._services: list[UpnpService] = []
        self._chosen: UpnpService | None = None

    async def open(self, location: str) -> None:
        """Read the description at `location`; raise `NoAnswer` where it is of no use."""
        try:
            factory = UpnpFactory(self._requester, non_strict=True)
            device = await factory.async_create_device(location)
            found = [each for each in device.all_services if _is_connection(each)]
        except (asyncio.CancelledError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001  whatever the library makes of what came
            raise _unusable("its description", error) from None
        if not found:
            raise NoAnswer("unusable", "its description names no connection to the Internet")
        self._services = found[:MAX_CONNECTIONS]

    async def close(self) -> None:
        """Let go of all connections to it."""
        await self._requester.close()

    async def outside(self) -> str:
        """Return the outside address as the router says it, which may be no address.

        Settles by which of its connections the router is asked from now on: the first that has
        an outside address, else the first that answers. Raises `NoAnswer` and `ActionError`.
        """
        said, failed = "", None
        for service in self._services:
            try:
                found = await self._call("GetExternalIPAddress", {}, service)
            except (ActionError, NoAnswer) as error:
                failed = failed or error
                continue
            text = found.get("NewExternalIPAddress", "")
            if self._chosen is None or outside_address(text):
                self._chosen, said = service, text
            if outside_address(text):
                break
        if self._chosen is None and failed:
            raise failed
        return said

    async def mapping(self, transport: str, port: int) -> Mapping | None:
        """Return where an outside port leads to; None where the router does not say.

        `client` None: it leads nowhere. Raises `NoAnswer`.
        """
        try:
            found = await self._call("GetSpecificPortMappingEntry", _entry(transport, port))
        except ActionError as error:
            known = error.code == NO_SUCH_ENTRY
            return Mapping(transport=transport, port=port) if known else None
        return _mapping(transport, port, found)

    async def add(self, transport: str, port: int, lease: int) -> None:
        """Map `port` to the same one of this host, for `lease` seconds (0: for ever).

        Ask first whom it leads to: some routers overwrite. Raises `NoAnswer` and `ActionError`.
        """
        await self._call(
            "AddPortMapping",
            {
                **_entry(transport, port),
                "NewInternalPort": str(port),
                "NewInternalClient": self._link.local,
                "NewEnabled": "1",
                "NewPortMappingDescription": "bothends",
                "NewLeaseDuration": str(lease),
            },
        )

    async def delete(self, transport: str, port: int) -> None:
        """End the mapping of an outside port, whoever made it. Raises as `add`."""
        await self._call("DeletePortMapping", _entry(transport, port))

    async def _call(
        self, name: str, words: dict[str, Any], service: UpnpService | None = None
    ) -> Words[str, str]:
        service = service or self._chosen or self._services[0]
        try:
            found = await service.action(name).async_call(**words)
        except (asyncio.CancelledError, TimeoutError):
            raise
        except UpnpActionError as error:
            raise ActionError(error.error_code, _shown(error.error_desc or "")) from None
        except Exception as error:  # noqa: BLE001  as above
            raise _unusable(name, error) from None
        return {key: value for key, value in found.items() if isinstance(value, str)}


def _is_connection(service: UpnpService) -> bool:
    return any(kind in service.service_type for kind in _CONNECTIONS)


def _entry(transport: str, port: int) -> dict[str, Any]:
    return {
        "NewRemoteHost": _ANY_REMOTE,
        "NewExternalPort": str(port),
        "NewProtocol": transport.upper(),
    }


def _mapping(transport: str, port: int, found: Words[str, str]) -> Mapping | None:
    """Return what the router said of a mapping; None where it does not make sense."""
    try:
        client = str(ipaddress.ip_address(found["NewInternalClient"].strip()))
        client_port = _number(found["NewInternalPort"], 2**16)
    except (KeyError, ValueError):
        return None
    try:
        lease = _number(found["NewLeaseDuration"], _SECONDS_32)
    except (KeyError, ValueError):
        lease = None
    enabled = found.get("NewEnabled", "1").strip().lower() not in ("0", "false", "no")
    return Mapping(
        transport=transport,
        port=port,
        client=client,
        client_port=client_port,
        lease=lease,
        enabled=enabled,
    )


def _number(text: str, limit: int) -> int:
    """Return the number in `text`; raise ValueError for anything else and from `limit` on."""
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(limit))):
        raise ValueError
    number = int(text)
    if number >= limit:
        raise ValueError
    return number


def _unusable(what: str, error: Exception) -> NoAnswer:
    if isinstance(error, NoAnswer):
        return error
    said = _shown(str(error)) or type(error).__name__
    return NoAnswer("unusable", f"{what} cannot be had: {said}")


def _shown(words: str) -> str:
    """What the router says, fit to be shown."""
    cut = words[:MAX_SAID]
    return "".join(letter if letter.isprintable() else " " for letter in cut).strip()


# --- what is fetched --------------------------------------------------------------------------


class _Requester(UpnpRequester):
    """HTTP to the router's own address alone, and bounded; the library's way to the world."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._session: aiohttp.ClientSession | None = None
        self._described = False
        self._services = 0

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def async_http_request(self, *given: Any, **named: Any) -> Any:
        """Answer the library: a request and a response, or (before 0.37) their parts."""
        request = (*given, *named.values())
        if isinstance(request[0], str):
            return await self._answer(*request)
        first = request[0]
        found = await self._answer(first.method, first.url, first.headers, first.body)
        from async_upnp_client.const import HttpResponse  # noqa: PLC0415  the older ones lack it

        return HttpResponse(*found)

    async def _answer(
        self, method: str, url: str, headers: Words[str, str] | None = None, body: str | None = None
    ) -> tuple[int, Words[str, str], str]:
        if method == "GET" and self._described:
            self._services += 1
            if self._services > MAX_SERVICES:
                raise NoAnswer("unusable", "its description names too many services")
            return 200, {}, _ACTIONS
        status, text = await self._fetch(method, self._own(url), dict(headers or {}), body)
        self._described = True
        return status, {}, text

    def _own(self, url: str) -> yarl.URL:
        """Return `url`; raise `NoAnswer` where it leads to anybody but the router."""
        try:
            parsed = yarl.URL(url)
        except ValueError:
            parsed = yarl.URL()
        own = parsed.scheme == "http" and parsed.host == self._link.gateway
        if not own or not parsed.port or parsed.user is not None:
            raise NoAnswer("unusable", "it sends us elsewhere")
        return parsed

    async def _fetch(
        self, method: str, url: yarl.URL, headers: dict[str, str], body: str | None
    ) -> tuple[int, str]:
        if self._session is None:
            self._session = _session(self._link.local)
        async with self._session.request(
            method,
            url,
            headers=headers,
            data=body.encode() if body is not None else None,
            allow_redirects=False,
        ) as response:
            taken = bytearray()
            async for chunk in response.content.iter_any():
                taken += chunk
                if len(taken) > MAX_BODY:
                    raise NoAnswer("unusable", "it answers with more than a router has to say")
            return response.status, taken.decode("utf-8", "replace").strip(" \t\r\n\0")


def _session(local: str) -> aiohttp.ClientSession:
    """Return a client that keeps nothing: no cookies, no connections, nobody's proxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=1, force_close=True, local_addr=(local, 0), use_dns_cache=False
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
        timeout=aiohttp.ClientTimeout(total=None),  # the caller's
    )


def _action(name: str, given: tuple[str, ...], returned: tuple[str, ...] = ()) -> str:
    arguments = [(each, "in") for each in given] + [(each, "out") for each in returned]
    listed = "".join(
        f"<argument><name>{argument}</name><direction>{way}</direction>"
        "<relatedStateVariable>Text</relatedStateVariable></argument>"
        for argument, way in arguments
    )
    return f"<action><name>{name}</name><argumentList>{listed}</argumentList></action>"


_WHICH = ("NewRemoteHost", "NewExternalPort", "NewProtocol")
_WHERE = (
    "NewInternalPort",
    "NewInternalClient",
    "NewEnabled",
    "NewPortMappingDescription",
    "NewLeaseDuration",
)
_LISTED = "".join(
    (
        _action("GetExternalIPAddress", (), ("NewExternalIPAddress",)),
        _action("GetSpecificPortMappingEntry", _WHICH, _WHERE),
        _action("AddPortMapping", (*_WHICH, *_WHERE)),
        _action("DeletePortMapping", _WHICH),
    )
)
_ACTIONS = (
    '<scpd xmlns="urn:schemas-upnp-org:service-1-0">'
    "<specVersion><major>1</major><minor>0</minor></specVersion>"
    f"<actionList>{_LISTED}</actionList><serviceStateTable>"
    '<stateVariable sendEvents="no"><name>Text</name><dataType>string</dataType></stateVariable>'
    "</serviceStateTable></scpd>"
)
"""What the service is told to the library to be, every argument as text: what a router puts into
them is read here, so that one odd number does not spoil the rest."""
