"""`kit bundle` and `kit unbundle`: carry what a study needs to a machine without a network."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import SpecError
from kit.ui.console import DONE, print_json, print_text, remark
from kit.ui.options import Subparsers, add_command, add_json, add_list

if TYPE_CHECKING:
    from kit.servers.bundle.gather import MadeBundle
    from kit.servers.bundle.place import PlacedBundle


def add(commands: Subparsers) -> None:
    _add_bundle(commands)
    parser = add_command(
        commands,
        "unbundle",
        unbundle,
        "check such a bundle, and put its content in place",
        about="Check every hash of a bundle and put its content where the kit looks for it; no "
        "network is used. Run again, it goes on: what is whole is not written again. Where no kit "
        "is installed yet, the bundle's unbundle.pyz installs it.",
        examples="bundle\nbundle --manifest-sha256 9f3c…\nbundle --venv ~/crash-kit\n"
        "/mnt/usb/bundle --into bundle-files",
    )
    parser.add_argument("bundle", type=Path, help="its folder, with manifest.json in it")
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="where the files of its pieces go (BUNDLE/files)"
    )
    parser.add_argument(
        "--venv", type=Path, metavar="ENV", help="make this environment, with the kit in it"
    )
    parser.add_argument(
        "--vllm", action="store_true", help="install its vLLM for the CPU into the cache"
    )
    parser.add_argument(
        "--manifest-sha256", metavar="SHA256", help="what its manifest must have, as printed there"
    )
    add_json(parser)


def _add_bundle(commands: Subparsers) -> None:
    parser = add_command(
        commands,
        "bundle",
        bundle,
        "pack what a study needs for a machine without a network",
        about="Pack Triton servers, the Python packages that they and the kit need, and the kit "
        "itself into a folder, with a list of SHA-256 hashes; vLLM, models and a Python if you "
        "name them. Run again, it goes on: what is whole is not fetched again.",
        examples="bundle --release 24.05,24.10\n"
        "bundle --release 24.05,24.10 --python 3.12 --platform manylinux_2_35_x86_64 "
        "--with-python --piece-size 90M\n"
        "bundle --release 24.10 --python 3.12 --vllm 0.26.0 --leave-out 'torch,nvidia-*' "
        "--model models/qwen --piece-size 64MiB",
    )
    parser.add_argument("bundle", type=Path, help="a new folder, or one of an earlier bundle")
    add_list(
        parser, "--release", "Triton servers; all: each that a wheel has", metavar="24.05,24.10"
    )
    there = parser.add_argument_group("the other machine; what is not given is as this one")
    there.add_argument("--python", metavar="3.12", help="its Python, which the kit will run in")
    there.add_argument(
        "--platform", metavar="TAG", help="manylinux_2_35_x86_64: its glibc and processor"
    )
    add_list(
        there,
        "--leave-out",
        "packages that its Python has: torch,nvidia-*",
        metavar="NAME,NAME",
    )
    what = parser.add_argument_group("what else goes in, or not")
    add_list(
        what,
        "--server-python",
        "Pythons for the servers' models, which need a shared library (--python)",
        metavar="3.12,3.11",
    )
    what.add_argument(
        "--with-python", action="store_true", help="those Pythons themselves, 35 MB each"
    )
    add_list(
        what, "--extra", "extras of the kit's packages (duckdb); test: its tests", metavar="NAME"
    )
    what.add_argument("--no-kit", action="store_true", help="leave the kit and its packages out")
    add_list(what, "--vllm", "versions of vLLM, with what they need", metavar="0.26.0")
    what.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="that vLLM is for (%(default)s)"
    )
    what.add_argument(
        "--with-package",
        action="append",
        default=[],
        metavar="NAME<VERSION",
        help="a bound or a package more for vLLM: 'transformers<4.46'",
    )
    what.add_argument(
        "--model", action="append", default=[], type=Path, metavar="DIR", help="a model's folder"
    )
    parser.add_argument("--piece-size", metavar="90M", help="cut the bundle into pieces")
    add_json(parser)


def bundle(args: Namespace) -> int:
    from kit.servers.bundle.gather import bundle as make
    from kit.servers.bundle.manifest import BundledVllm
    from kit.servers.bundle.pins import target
    from kit.servers.bundle.plan import BundleSpec, bytes_of, releases_named
    from kit.servers.bundle.progress import size

    if not (args.release or args.vllm or args.model):
        raise SpecError(
            "a bundle of nothing", "releases, a vLLM or a model", "name one: --release 24.05"
        )
    spec = BundleSpec(
        of=target(args.python, args.platform),
        releases=releases_named(args.release or ()),
        kit=not args.no_kit,
        extras=tuple(args.extra or ("duckdb",)),
        pythons=tuple(dict.fromkeys(args.server_python or ())),
        with_python=args.with_python,
        vllm=tuple(
            BundledVllm(version=v, device=args.device) for v in dict.fromkeys(args.vllm or ())
        ),
        with_packages=tuple(args.with_package),
        leave_out=tuple(dict.fromkeys(args.leave_out or ())),
        models=tuple(args.model),
        piece_bytes=bytes_of(args.piece_size) if args.piece_size else None,
    )
    made = make(args.bundle, spec, remark)
    if args.json:
        print_json(_with_texts(made))
        return DONE
    pieces = f" in {made.pieces} pieces" if made.pieces else ""
    print_text(f"{made.folder}: {made.files} files, {size(made.size_bytes)}{pieces}")
    print_text(f"manifest SHA-256 {made.manifest_sha256}")
    print_text("carry the whole folder over; its README.txt says what to do there")
    return DONE


def unbundle(args: Namespace) -> int:
    from kit.servers.bundle.place import unbundle as place

    placed = place(
        args.bundle,
        remark,
        into=args.into,
        venv=args.venv,
        with_vllm=args.vllm,
        manifest_sha256=args.manifest_sha256,
    )
    if args.json:
        print_json(_with_texts(placed))
        return DONE
    if placed.releases:
        print_text(f"Triton {', '.join(placed.releases)}: `kit run --release {placed.releases[0]}`")
    for model in placed.models:
        print_text(f"model: {model}")
    if placed.kit:
        print_text(f"the kit: {placed.kit}")
    for line in placed.left:
        print_text(f"left out: {line}")
    for line in placed.next_steps:
        print_text(f"to do: {line}")
    return DONE


def _with_texts(made: MadeBundle | PlacedBundle) -> dict[str, object]:
    """Its fields for JSON, which knows no paths."""

    def text(value: object) -> object:
        if isinstance(value, tuple):
            return [text(one) for one in value]
        return str(value) if isinstance(value, Path) else value

    return {name: text(value) for name, value in dataclasses.asdict(made).items()}
