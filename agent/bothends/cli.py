"""The command line: parses, checks, and hands over to the commands.

Only argparse is imported here; what a command needs is loaded when it runs, so
that `--help` answers at once. Whatever is wrong with what was typed is said in
one sentence on standard error, exit status 2.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn, TypeAlias

from . import __version__

__all__ = ["UsageError", "run"]

USAGE = 2


class UsageError(Exception):
    """What was typed cannot be used; the message is one sentence for the user."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        sentence = message.rstrip("?. ")
        raise UsageError(f"{sentence[:1].upper()}{sentence[1:]}. Try: {self.prog} --help")


def run(argv: Sequence[str], *, whole_process: bool = False) -> int:
    """Carry out the command line `argv`; return the exit status.

    `whole_process` says that this process does nothing else.
    """
    try:
        args = _parser().parse_args(argv)
        with _uncollected() if whole_process else contextlib.nullcontext():
            command = _command(args)
        return command(args)
    except UsageError as error:
        print(f"bothends: {error}", file=sys.stderr)
        if "--json" in argv:
            from .command import usage_document  # noqa: PLC0415

            print(usage_document(str(error)))
        return USAGE


def _command(args: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """Load the command that was asked for."""
    with _uninterrupted():
        if args.command == "demo":
            from .demo import demo  # noqa: PLC0415

            return demo
        if args.command == "rendezvous":
            from .rendezvous_server import rendezvous  # noqa: PLC0415

            return rendezvous
        if args.command == "combine":
            from .combine import combine  # noqa: PLC0415

            return combine
        from .command import agent  # noqa: PLC0415

        return agent


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector from all that is loaded in the block.

    It stays until the process ends. The collector would look through it again and again while
    it is loaded, and once more at the end: a fifth of the time that both take together.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done.

    Extension modules that import others while they load swallow the KeyboardInterrupt, and
    the agent would then wait as if nothing had been said (seen with msgspec and datetime).
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bothends",
        allow_abbrev=False,
        description="Find out from both ends why one computer cannot reach a service on another.",
        epilog="Start `bothends destination PORT` on the computer that should accept "
        "connections, then `bothends source` on the one that connects.",
    )
    parser.add_argument("--version", action="version", version=f"bothends {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_destination(commands)
    _add_source(commands)
    _add_suggest(commands)
    _add_rendezvous(commands)
    _add_combine(commands)
    _add_demo(commands)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"  # noqa: SLF001  no public name


def _add_destination(commands: _Commands) -> None:
    command = commands.add_parser(
        "destination",
        allow_abbrev=False,
        help="on the computer that should accept connections",
        description="Run on the computer that should accept connections. Prints a pairing code "
        "for the other side.",
    )
    command.add_argument(
        "ports", metavar="PORTS", help="4242, or 4242,4252, or 1024-1100, or tcp:4242,udp:4242"
    )
    command.add_argument(
        "--service", metavar="NAME", help="the program that ought to hold the port"
    )
    command.add_argument(
        "--map",
        action="store_true",
        help="where the router does not forward the port: have it do so, test, and undo it",
    )
    command.add_argument(
        "--keep-map", action="store_true", help="with --map: leave the port open afterwards"
    )
    _add_common(command)


def _add_suggest(commands: _Commands) -> None:
    command = commands.add_parser(
        "suggest",
        allow_abbrev=False,
        help="in place of destination: which free port could a service take?",
        description="Run on the computer that should accept connections, in place of "
        "destination: finds a port that no program holds there and that the source reaches. Where "
        "there is none, says what is in the way, and how to open one.",
    )
    command.add_argument(
        "ports",
        nargs="?",
        metavar="RANGE",
        # Ports that need no root, below those that systems choose for themselves.
        default="1024-5999",
        help="where to look (1024-5999); 4242 and 4243 only where they are typed alone, and none "
        "that the system takes for connections of its own",
    )
    _add_common(command)


def _add_source(commands: _Commands) -> None:
    command = commands.add_parser(
        "source",
        allow_abbrev=False,
        help="on the computer that connects",
        description="Run on the computer that connects. Asks for the pairing code where none is "
        "given; on the command line other users of the computer can see it.",
    )
    command.add_argument(
        "typed_code", nargs="?", metavar="CODE", help="the code that the destination shows"
    )
    command.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="ADDRESS-OR-NAME",
        help="what the real application is told to connect to (repeatable)",
    )
    command.add_argument(
        "--ports",
        metavar="PORTS",
        default="4242",
        help="with --save: what to try while the destination is not there to name it (4242)",
    )
    command.add_argument(
        "--payload",
        metavar="TEXT|hex:...|@FILE",
        help="what datagrams to a UDP service hold (nothing)",
    )
    _add_common(command)


def _add_common(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--peer",
        action="append",
        default=[],
        metavar="ADDRESS[:PORT]",
        help="address of the other computer (repeatable)",
    )
    add("--code", metavar="CODE", help="use this pairing code (better: --code-file)")
    add("--code-file", metavar="FILE", help="read the pairing code from FILE (- for stdin)")
    add(
        "--rendezvous",
        metavar="URL",
        help="a meeting point that both reach: ws:// or wss:// (none is built in)",
    )
    add("--no-rendezvous", action="store_true", help="use no meeting point")
    add(
        "--stun",
        metavar="HOST[:PORT]",
        help="a STUN server, to ask as what others see this computer (none is built in)",
    )
    add(
        "--control-port",
        metavar="N",
        default="24242",
        help="where the agents meet; the same on both sides (24242)",
    )
    add("--no-mdns", action="store_true", help="do not search the local network")
    add("--wait", metavar="SECONDS", default="600", help="for the other side (600)")
    add("--timeout", metavar="SECONDS", default="60", help="from pairing to verdict (60)")
    add("--both-ways", action="store_true", help="test the other direction too")
    add(
        "--fast",
        action="store_true",
        help="thousands of ports at full speed across routers too (on both sides)",
    )
    add(
        "--watch",
        action="store_true",
        help="keep testing, on both sides, and list what changed when",
    )
    add("--json", action="store_true", help="print the verdict as one JSON document")
    add("--report", metavar="FILE.html", help="write the verdict as a page, too")
    add("--save", metavar="FILE", help="keep this side's evidence, for bothends combine")
    add("--paste", action="store_true", help="print it as text for a chat, encrypted and masked")
    add("--paste-addresses", action="store_true", help="the same with addresses and names shown")
    add("-v", "--verbose", action="count", default=0, help="more details of both computers")


def _add_rendezvous(commands: _Commands) -> None:
    command = commands.add_parser(
        "rendezvous",
        allow_abbrev=False,
        help="a meeting point for agents that cannot reach each other",
        description="Run on a computer that both others can reach. It passes on what the two "
        "agents say, and cannot read it. Prints what to add on both computers.",
    )
    command.add_argument(
        "--listen", metavar="HOST:PORT", required=True, help="where to wait for the agents"
    )
    command.add_argument("--certificate", metavar="FILE", help="serve wss:// with it (PEM)")
    command.add_argument("--key", metavar="FILE", help="the key of the certificate (PEM)")


def _add_combine(commands: _Commands) -> None:
    command = commands.add_parser(
        "combine",
        allow_abbrev=False,
        help="a joint verdict from the evidence that both sides saved",
        description="Judge the evidence that both sides saved with --save or printed with "
        "--paste, on any computer and without any network.",
    )
    add = command.add_argument
    add("files", nargs="+", metavar="FILE", help="saved or pasted evidence (- for standard input)")
    add("--code", metavar="CODE", help="the pairing code of the run (better: --code-file)")
    add("--code-file", metavar="FILE", help="read the pairing code from FILE (- for stdin)")
    add("--json", action="store_true", help="print the verdict as one JSON document")
    add("--report", metavar="FILE.html", help="write the verdict as a page, too")
    add("-v", "--verbose", action="count", default=0, help="say more of both computers")


def _add_demo(commands: _Commands) -> None:
    command = commands.add_parser(
        "demo",
        allow_abbrev=False,
        help="both agents on this one computer, with a fault to find",
        description="Run both agents on this one computer, a real service between them and a "
        "fault to find. Changes nothing on the computer itself.",
    )
    command.add_argument("fault", nargs="?", metavar="FAULT", help="see --list")
    command.add_argument("--list", action="store_true", help="list the faults")
    command.add_argument("--json", action="store_true", help="print the verdict as JSON")
