"""The `destination` and `source` commands: options checked, run, verdict shown."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import math
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from bothends_protocol.addresses import bare, is_loopback
from bothends_protocol.code import Code, parse_code
from bothends_protocol.errors import InputError, ProtocolError
from bothends_protocol.evidence import HostFacts
from bothends_protocol.messages import MAX_NAMED
from bothends_protocol.pairing import DESTINATION, SOURCE
from bothends_protocol.ports import PortSet, parse_ports
from bothends_protocol.stun import STUN_PORT
from bothends_protocol.timeline import Timeline
from bothends_protocol.verdict import EXIT_STATUS, Verdict

from . import hints, render
from .cli import UsageError
from .options import SERVICE_PORT, Endpoint, Options
from .outcome import Outcome
from .run import Run
from .saving import paste_lines, save_evidence
from .screen import LiveScreen, list_lines
from .sought import own_choice, sought

__all__ = ["agent", "usage_document"]

INTERRUPTED = 130
MAX_UDP_PORTS = 4096
"""UDP ports of one request: what both sides can hold as single results."""

WIDE = 4097
"""Ports of a range of which nobody means each."""

MAX_ALONE_PORTS = 16
"""Ports that a source tries again and again while it waits."""

MAX_PAYLOAD = 1200
"""Bytes of --payload: with the headers they pass everywhere in one piece (IPv6 asks for 1,280)."""

MAX_SECONDS = 7 * 24 * 3600.0
MAX_CODE_FILE = 4096
MAX_DIGITS = 9


def agent(args: argparse.Namespace) -> int:
    """Run one agent; return its exit status."""
    options = _options(args)
    return asyncio.run(_run(options))


async def _run(options: Options) -> int:
    typed = hints.TypedLines(lambda text: _take_address(options, run, text), lambda: not run.paired)
    screen = _screen(options)
    run = Run(
        options,
        say=_say,
        show_code=lambda code, facts: _show_code(options, code, facts, typing=typing),
        screen=screen,
    )
    loop = asyncio.get_running_loop()
    # Where there are no such handlers, Ctrl-C cancels the run, which is as good but for --watch.
    with contextlib.suppress(NotImplementedError, AttributeError):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, run.interrupt)
    typing = typed.start()
    later: asyncio.TimerHandle | None = None
    if options.role == SOURCE:
        later = loop.call_later(hints.HINT_SECONDS, lambda: _hint(options, run, typing=typing))
    try:
        outcome = await run.run()
    except asyncio.CancelledError:
        outcome = run.interrupted()
    finally:
        typed.close()
        if later is not None:
            later.cancel()
        screen.close()
    _show(options, outcome)
    _keep(options, outcome)
    return INTERRUPTED if outcome.interrupted else EXIT_STATUS[outcome.verdict.status]


def _screen(options: Options) -> LiveScreen:
    if options.json:
        return LiveScreen(sys.stderr, None)
    return LiveScreen(sys.stdout, lambda outcome: _print(options, outcome))


def usage_document(sentence: str) -> str:
    """Return the JSON document for a command line that cannot be used."""
    verdict = Verdict(verdict_id=None, status="no-contact", reachable="unknown", summary=sentence)
    return render.dumps(render.document(verdict))


def _show(options: Options, outcome: Outcome) -> None:
    verdict = outcome.verdict
    if verdict.verdict_id is None:
        # Not a joint verdict but a failure: told where failures are told, too.
        _say(f"bothends: {verdict.summary}")
    if outcome.alone is not None:
        hosts = {SOURCE: outcome.source, DESTINATION: outcome.destination}
        outside = render.outside_said(outcome.outside, hosts)
        render.print_alone(outcome.alone, sys.stderr, outside)
    try:
        if options.json:
            print(render.dumps(_document(outcome)), flush=True)
        elif verdict.status != "no-contact":
            _print_end(options, outcome)
    except OSError as error:
        # Whoever read the output has gone, or the disk is full; the exit status still tells.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _say(f"bothends: The verdict cannot be written: {error.strerror}.")
    if options.report is not None:
        from .page import write_page  # noqa: PLC0415  loads jinja2

        try:
            write_page(options.report, _document(outcome))
        except OSError as error:
            _say(f"The report {options.report} cannot be written: {error.strerror}.")


def _print_end(options: Options, outcome: Outcome) -> None:
    # With --watch the verdicts were shown as they came, but for the word that the other is lost.
    if outcome.timeline is None or outcome.contact.get("lost"):
        _print(options, outcome)
    if outcome.timeline is not None:
        _print_list(outcome.timeline)


def _keep(options: Options, outcome: Outcome) -> None:
    """Save and print the evidence, as far as that was asked for and there is any."""
    wanted = options.save is not None or options.paste
    if wanted and outcome.kept is None:
        _say("bothends: There is no evidence to be saved: the run ended before there was any.")
    if not wanted or outcome.kept is None:
        return
    try:
        if options.save is not None:
            save_evidence(options.save, outcome.kept)
            _say(
                f"Evidence saved: {options.save}. `bothends combine` checks it "
                "by the pairing code: keep that too."
            )
        if options.paste:
            _paste(options, paste_lines(outcome.kept, addresses=options.paste_addresses))
    except OSError as error:
        _say(f"bothends: The evidence cannot be saved: {error.strerror}.")
    except ProtocolError as error:
        _say(f"bothends: The evidence cannot be saved: {error}.")


def _paste(options: Options, lines: list[str]) -> None:
    seen = "Addresses are shown" if options.paste_addresses else "Addresses and names are masked"
    _say(f"Paste all {len(lines)} lines where they are needed. {seen} to those who have the code.")
    print(*lines, sep="\n", file=sys.stderr if options.json else sys.stdout, flush=True)


def _print(options: Options, outcome: Outcome) -> None:
    render.print_text(
        outcome.verdict,
        role=options.role,
        source=outcome.source,
        destination=outcome.destination,
        outside=outcome.outside,
        contact=outcome.contact,
        verbose=options.verbose > 0,
    )
    sys.stdout.flush()


def _print_list(timeline: Timeline) -> None:
    lines = [f"  {line}" for entry in timeline.entries for line in list_lines(entry)]
    print("", "What changed when:", *lines, sep="\n", flush=True)


def _document(outcome: Outcome) -> dict[str, object]:
    return render.document(
        outcome.verdict,
        source=outcome.source,
        destination=outcome.destination,
        outside=outcome.outside,
        contact=outcome.contact,
        seconds=outcome.seconds,
        alone=outcome.alone,
        timeline=outcome.timeline,
    )


def _say(text: str) -> None:
    print(render.clean(text), file=sys.stderr, flush=True)


def _show_code(options: Options, code: Code, facts: HostFacts, *, typing: bool) -> None:
    lines = hints.destination_lines(
        options,
        code,
        hints.shown_addresses(facts),
        typing=typing,
        rendezvous=options.rendezvous,
    )
    print("\n".join(lines), file=sys.stderr if options.json else sys.stdout, flush=True)


def _hint(options: Options, run: Run, *, typing: bool) -> None:
    """Tell the source's user what else can be done; not where the two have met already."""
    if not run.paired:
        addresses = hints.shown_addresses(run.facts)
        for line in hints.source_lines(
            options, addresses, typing=typing, rendezvous=options.rendezvous
        ):
            _say(line)


def _take_address(options: Options, run: Run, text: str) -> None:
    """Dial what was typed while waiting; what cannot be dialled is said, and waiting goes on."""
    if hints.is_like_a_code(text):
        # Neither repeated here nor looked up as a name: the words are a secret.
        _say("That is a pairing code and no address: type it on the other computer.")
        return
    try:
        endpoint = _endpoint(text, options.control_port)
    except UsageError:
        _say("That is no address: type ADDRESS, ADDRESS:PORT or NAME, and press Enter.")
        return
    own = {bare(item.address) for item in run.facts.addresses}
    here = bare(endpoint.host) in own or is_loopback(endpoint.host)
    if here and endpoint.port == options.control_port:
        _say(f"{text} is this computer's own address: type the other computer's.")
        return
    _say(f"Looking for the other computer at {text}, too.")
    run.also(endpoint)


# Checking what was typed ---------------------------------------------------------------------


def _options(args: argparse.Namespace) -> Options:
    role = SOURCE if args.command == "source" else DESTINATION
    control_port = _number(args.control_port, "--control-port", 1, 65535)
    if getattr(args, "keep_map", False) and not args.map:
        raise UsageError("--keep-map keeps open what --map opens: give both.")
    code = _code(args, role)
    return Options(
        role=role,
        ports=_named_ports(args, control_port),
        suggest=args.command == "suggest",
        fast=args.fast,
        code=code,
        code_fixed=code is not None,
        code_shared=args.code is not None or args.code_file is not None,
        peers=tuple(_endpoint(text, control_port) for text in args.peer),
        targets=tuple(_target(text) for text in getattr(args, "target", ())),
        service=getattr(args, "service", None),
        control_port=control_port,
        rendezvous=_rendezvous(args),
        stun=None if args.stun is None else _endpoint(args.stun, STUN_PORT),
        mdns=not args.no_mdns,
        wait=_seconds(args.wait, "--wait"),
        timeout=_seconds(args.timeout, "--timeout"),
        json=args.json,
        report=_report(args.report),
        save=_save(args.save),
        paste=args.paste or args.paste_addresses,
        paste_addresses=args.paste_addresses,
        both_ways=args.both_ways,
        offline_ports=_offline_ports(args.ports if role == SOURCE else str(SERVICE_PORT)),
        payload=_payload(getattr(args, "payload", None)),
        watch=args.watch,
        map=getattr(args, "map", False),
        keep_map=getattr(args, "keep_map", False),
        verbose=args.verbose,
    )


def _rendezvous(args: argparse.Namespace) -> str | None:
    if args.rendezvous is None:
        return None
    if args.no_rendezvous:
        raise UsageError("Give either --rendezvous or --no-rendezvous.")
    from .rendezvous import parse_url  # noqa: PLC0415  only where one is named

    try:
        return parse_url(args.rendezvous)
    except InputError as error:
        raise UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _named_ports(args: argparse.Namespace, control_port: int) -> tuple[str, ...]:
    if args.command == "suggest":
        return _sought_ports(args, control_port)
    return _test_ports(args, control_port) if args.command == "destination" else ()


def _sought_ports(args: argparse.Namespace, control_port: int) -> tuple[str, ...]:
    if args.both_ways:
        raise UsageError("suggest looks for a port of this computer's: leave out --both-ways.")
    _parsed(args.ports)
    left, said = sought(args.ports, control_port, own_choice())
    if not left:
        raise UsageError(
            f"None of {args.ports} can be suggested: they are ports where the agents meet, that "
            "this computer takes for connections of its own, or 4242 and 4243. Give another range."
        )
    if said:
        _say(said)
    return _texts(left)


def _test_ports(args: argparse.Namespace, control_port: int) -> tuple[str, ...]:
    wanted = _ports(args.ports, without=control_port)
    if any(control_port in part for text in wanted for part in parse_ports(text)):
        raise UsageError(
            f"Port {control_port} is where the agents meet, so it cannot be tested: give both "
            "sides another --control-port."
        )
    return wanted


def _ports(text: str, without: int = 0) -> tuple[str, ...]:
    """Return the port sets in `text`; of long ranges the port `without` is left out."""
    return _texts([_left_out(part, without) for part in _parsed(text)])


def _parsed(text: str) -> list[PortSet]:
    try:
        return parse_ports(text)
    except InputError as error:
        raise UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _texts(parts: Sequence[PortSet]) -> tuple[str, ...]:
    if sum(len(part) for part in parts if part.transport == "udp") > MAX_UDP_PORTS:
        raise UsageError(f"At most {MAX_UDP_PORTS} ports of UDP are tested in one run.")
    texts = tuple(f"{part.transport}:{text}" for part in parts for text in _in_pieces(part))
    if len(texts) > MAX_NAMED:
        raise UsageError(
            f"Those are too many separate ports: give {MAX_NAMED * _RANGES} ranges at most."
        )
    return texts


def _left_out(part: PortSet, port: int) -> PortSet:
    """Return `part` without a port that nobody means who types a range of thousands around it."""
    for index, (first, last) in enumerate(part.ranges):
        if first <= port <= last and last - first + 1 >= WIDE:
            ends = ((first, port - 1), (port + 1, last))
            halves = tuple((a, b) for a, b in ends if a <= b)
            return replace(part, ranges=(*part.ranges[:index], *halves, *part.ranges[index + 1 :]))
    return part


def _in_pieces(part: PortSet) -> Iterator[str]:
    """A set as texts none of which is longer than a message may hold."""
    ranges = str(part).split(",")
    for start in range(0, len(ranges), _RANGES):
        yield ",".join(ranges[start : start + _RANGES])


_RANGES = 80
"""Ranges in one text: 12 letters each at most, and `evidence.MAX_TEXT` is 1,024."""


def _offline_ports(text: str) -> tuple[str, ...]:
    ports = _ports(text)
    if any(part.transport != "tcp" for item in ports for part in parse_ports(item)):
        raise UsageError("--ports names TCP ports only: a source that is alone tries no others.")
    if sum(len(part) for item in ports for part in parse_ports(item)) > MAX_ALONE_PORTS:
        raise UsageError(f"--ports names at most {MAX_ALONE_PORTS} ports.")
    return ports


def _payload(text: str | None) -> bytes:
    """What was given with --payload: text, `hex:` and digits, or @ and the name of a file."""
    if text is None:
        return b""
    data = _payload_bytes(text)
    if not data:
        raise UsageError("--payload holds nothing: leave it out, and empty datagrams are sent.")
    if len(data) > MAX_PAYLOAD:
        raise UsageError(f"--payload holds more than {MAX_PAYLOAD} bytes.")
    return data


def _payload_bytes(text: str) -> bytes:
    if text.startswith("@"):
        try:
            with Path(text[1:]).open("rb") as file:
                return file.read(MAX_PAYLOAD + 1)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"The payload file {text[1:]!r} cannot be read: {why}.") from error
    if text.startswith("hex:"):
        try:
            return bytes.fromhex(text[len("hex:") :])
        except ValueError as error:
            raise UsageError("--payload hex: must be followed by pairs of hex digits.") from error
    return text.encode("utf-8", "surrogateescape")


def _code(args: argparse.Namespace, role: str) -> Code | None:
    given = [
        text
        for text in (getattr(args, "typed_code", None), args.code, args.code_file)
        if text is not None
    ]
    if len(given) > 1:
        raise UsageError("Give the pairing code once only.")
    if args.code_file is not None:
        text = _read_code(args.code_file)
    elif given:
        text = given[0]
    elif role == DESTINATION:
        return None
    else:
        text = _ask_code()
    try:
        return parse_code(text)
    except InputError as error:
        raise UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _read_code(name: str) -> str:
    try:
        if name == "-":
            return _read_line()
        with Path(name).open(encoding="ascii", errors="replace") as file:
            return file.read(MAX_CODE_FILE)
    except OSError as error:
        raise UsageError(f"The code file {name!r} cannot be read: {error.strerror}.") from error


def _ask_code() -> str:
    # The prompt goes to standard error: standard output is the verdict's.
    print("Pairing code that the destination shows: ", end="", file=sys.stderr, flush=True)
    text = _read_line()
    if not text.strip():
        print(file=sys.stderr)
        raise UsageError("The source needs the pairing code that the destination shows.")
    return text


def _read_line() -> str:
    """Return a line of standard input; an empty one where there is none to be had."""
    try:
        return sys.stdin.readline()
    except (AttributeError, ValueError, OSError):
        return ""  # closed, or not text


def _endpoint(text: str, usual_port: int) -> Endpoint:
    host, port = _split_port(text)
    if not host or any(c.isspace() or c in "/@\\" for c in host):
        raise UsageError(f"{text!r} is not an address: write ADDRESS, ADDRESS:PORT or NAME.")
    _refuse_bad_number(host, text)
    return Endpoint(
        host, usual_port if port is None else _number(port, f"The port of {text!r}", 1, 65535)
    )


def _split_port(text: str) -> tuple[str, str | None]:
    """Split ADDRESS[:PORT]; an IPv6 address with a port is written [ADDRESS]:PORT."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r} is not an address: write [ADDRESS]:PORT.")
        return host, rest[1:] if rest else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None


def _target(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not host or any(c.isspace() or c in "/@\\" for c in host) or len(host) > 253:
        raise UsageError(f"{text!r} is not an address or a name.")
    _refuse_bad_number(host, text)
    return host


def _refuse_bad_number(host: str, text: str) -> None:
    """What looks like an address must be one: `192.168.1.300` is no name to look up."""
    looks = ":" in host or all(part.isdigit() for part in host.split("."))
    if not looks:
        return
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise UsageError(f"{text!r} is not an IP address.") from error


def _number(text: str, name: str, least: int, most: int) -> int:
    valid = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    if not valid or not least <= int(text) <= most:
        raise UsageError(f"{name} must be a number from {least} to {most}, not {text!r}.")
    return int(text)


def _seconds(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_SECONDS:
        raise UsageError(f"{name} must be a number of seconds above 0, not {text!r}.")
    return value


def _report(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    if not path.parent.is_dir():
        raise UsageError(f"The folder of the report {name!r} does not exist.")
    return path


def _save(name: str | None) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    if not path.parent.is_dir():
        raise UsageError(f"The folder of the evidence file {name!r} does not exist.")
    if path.is_dir():
        raise UsageError(f"The evidence file {name!r} is a folder.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"The folder of the evidence file {name!r} cannot be written to.")
    return path
