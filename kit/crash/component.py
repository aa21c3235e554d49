"""Names the component that died, from its stack and from what the log says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

from kit.crash.death import Process
from kit.crash.log.backtrace import Backtrace
from kit.crash.log.phrases import Topic
from kit.crash.log.shapes import Shape
from kit.crash.stack.builds import CORE, PYTHON_BACKEND, SERVER, Build, executable_base, part_at
from kit.crash.stack.site import (
    exact_symbol,
    fault_frames,
    is_system,
    plain_module,
    short_name,
    was_waiting,
)
from kit.study.result import Frame


class Component(StrEnum):
    """Where in the server a fault is."""

    HTTP_FRONTEND = "http-frontend"
    GRPC_FRONTEND = "grpc-frontend"
    CORE = "core"
    PYTHON_BACKEND = "python-backend"
    PYTHON_STUB = "python-stub"
    VLLM_ENGINE = "vllm-engine"
    TENSORRTLLM_BACKEND = "tensorrtllm-backend"
    CUDA = "cuda"
    OUT_OF_MEMORY = "out-of-memory"
    LIBC_ABORT = "libc-abort"
    OTHER = "other"
    NONE = "none"  # nothing died


#: By what a frame shows: function, module or source file. The first that fits decides.
_BY_TEXT: tuple[tuple[re.Pattern[str], Component], ...] = tuple(
    (re.compile(pattern), component)
    for pattern, component in (
        (r"triton::backend::python::Stub|^triton_python_backend_stub", Component.PYTHON_STUB),
        (r"triton::backend::python::|^libtriton_python\.so", Component.PYTHON_BACKEND),
        (
            r"tensorrt_llm::|inflight_batcher_llm|libtriton_tensorrtllm|libtensorrt_llm"
            r"|libnvinfer_plugin_tensorrt_llm",
            Component.TENSORRTLLM_BACKEND,
        ),
        (
            r"triton::server::grpc::|\bgrpc(?:_core|_impl)?::|^grpc_|(?:stream_)?infer_handler\."
            r"|grpc_server\.cc|chttp2|^(?:pollset_work|end_worker)\b|\binference::Model",
            Component.GRPC_FRONTEND,
        ),
        (
            r"triton::server::(?:HTTP|Generate)|\bevhtp|\bevthr|^_?evbuffer|^bufferevent"
            r"|http_server\.cc",
            Component.HTTP_FRONTEND,
        ),
        (r"triton::core::", Component.CORE),
        # what only watches or configures GPUs is not CUDA
        (r"c10d::ProcessGroupNCCL|c10::cuda::|^p?nccl[A-Z]|^libnccl|^libcuda|^libcublas|^libcudnn"
         r"|^cuda[A-Z]|^cu[A-Z][a-z]+[A-Z]|^libnvidia-(?!cfg|ml|nscq)|^libcufft|^libcusparse",
         Component.CUDA),
        (r"/vllm/|^vllm::|^_C(?:_stable_libtorch)?\.abi3\.so", Component.VLLM_ENGINE),
    )
)  # fmt: skip
#: Core functions that backends or frontends call: a bad argument is the caller's fault.
_INTERFACE = re.compile(r"TRITON(?:BACKEND|SERVER)_\w+")
_BACKEND = re.compile(r"libtriton_\w+\.so")


def component_of(
    backtrace: Backtrace | None,
    *,
    topics: frozenset[Topic],
    process: Process = Process.UNKNOWN,
    words: Sequence[str] = (),
    build: Build | None = None,
) -> Component:
    """Where the fault is.

    topics: of the log's notices about deaths. words: what was said just before the stack.
    build: of the release that printed the stack, when known; tells the frontends apart. process:
    that died; what a Python model's process or an engine dies of is theirs.
    """
    if process is Process.STUB and backtrace is not None and not ({Topic.HEAP} & topics):
        return Component.PYTHON_STUB
    found = _component_of(backtrace, topics, words, build)
    if found is Component.OTHER and process is Process.ENGINE:
        return Component.VLLM_ENGINE
    return found


def _component_of(
    backtrace: Backtrace | None,
    topics: frozenset[Topic],
    words: Sequence[str],
    build: Build | None,
) -> Component:
    said = " ".join((*words, *(backtrace.messages if backtrace else ())))
    if backtrace is not None and _GRPC_WORDS.search(said):
        return Component.GRPC_FRONTEND
    if backtrace is None or not (backtrace.frames or backtrace.torn):
        return _of_words(topics)
    if Topic.HEAP in topics and _HEAP_WORDS.search(said):
        return Component.LIBC_ABORT
    if topics & {Topic.CUDA, Topic.NCCL} and _GPU_WORDS.search(said):
        return Component.CUDA
    return _of_stack(backtrace, build)


#: glibc's own function by which it reports a damaged heap, and where it is inlined, the one that
#: prints and its caller.
_FOUND_DAMAGED = re.compile(r"^_{0,3}(?:GI_)?_{0,3}malloc_printerr")
_PRINTS = re.compile(r"^_{0,3}(?:GI_)?_{0,3}libc_message")
_ALLOCATES = re.compile(
    r"^_{0,3}(?:GI_|int_|libc_)*(?:free|malloc|realloc|calloc|memalign|malloc_consolidate"
    r"|unlink_chunk|tcache_\w+|munmap_chunk|systrim)\b"
)
_GRPC_WORDS = re.compile(r"GRPC_CALL_ERROR|ASSERTION FAILED")
_GPU_WORDS = re.compile(r"c10::|CUDA|NCCL")
_HEAP_WORDS = re.compile(r"free|malloc|realloc|corrupted|munmap_chunk|detected")


def _of_words(topics: frozenset[Topic]) -> Component:
    for topic, component in (
        (Topic.OUT_OF_MEMORY, Component.OUT_OF_MEMORY),
        (Topic.HEAP, Component.LIBC_ABORT),
        (Topic.ASSERTION, Component.OTHER),
        (Topic.KILLED, Component.OTHER),
    ):
        if topic in topics:
            return component
    if topics & {Topic.ENGINE, Topic.SIGNAL, Topic.EXCEPTION, Topic.START, Topic.NCCL}:
        if Topic.GPU_MEMORY in topics:
            return Component.OUT_OF_MEMORY
        if topics & {Topic.CUDA, Topic.NCCL}:
            return Component.CUDA
    if topics & {Topic.ENGINE}:
        return Component.VLLM_ENGINE
    return Component.PYTHON_STUB if Topic.STUB in topics else Component.OTHER


def _of_stack(backtrace: Backtrace, build: Build | None) -> Component:
    if backtrace.torn:
        return Component.OTHER
    if backtrace.shape is Shape.FAULTHANDLER:
        return Component.OTHER
    if _found_damage([frame.symbol or "" for frame in backtrace.frames]):
        return Component.LIBC_ABORT
    frames = fault_frames(backtrace)
    if was_waiting(backtrace):
        return Component.OTHER
    base = executable_base(backtrace, build) if build else None
    for at, frame in enumerate(frames):
        found = _of_frame(frame, frames[at + 1 : at + 2], build, base)
        if found is not None:
            return found
    if any(plain_module(frame.module) == SERVER for frame in frames):
        return _of_thread(backtrace)
    return Component.OTHER


def _found_damage(symbols: Sequence[str]) -> bool:
    """Whether glibc ended the process over a damaged heap."""
    return any(map(_FOUND_DAMAGED.match, symbols)) or any(
        _PRINTS.match(printer) and _ALLOCATES.match(caller) for printer, caller in pairwise(symbols)
    )


def _of_frame(
    frame: Frame, caller: Sequence[Frame], build: Build | None, base: int | None
) -> Component | None:
    """The component of one frame; None where it says nothing."""
    module = plain_module(frame.module)
    symbol = exact_symbol(frame)
    if symbol and _INTERFACE.match(symbol) and module in (CORE, None):
        called_by = plain_module(caller[0].module) if caller else None
        if module == CORE and called_by in (SERVER, PYTHON_BACKEND):
            return None  # the caller's frame decides
        return Component.CORE
    # what a function's template is filled with says nothing of where it is
    own = short_name(symbol) if symbol else None
    for text in (own, module, frame.source):
        for pattern, component in _BY_TEXT:
            if text and pattern.search(text):
                return component
    if is_system(frame):
        return None
    if module == CORE:
        return Component.CORE
    if module == SERVER and build and base is not None and frame.address is not None:
        part = part_at(build, frame.address - base)
        return Component(part) if part and part != Component.OTHER else None
    if module is not None and _BACKEND.match(module):
        return Component.OTHER
    return None


def _of_thread(backtrace: Backtrace) -> Component:
    """The frontend of an unknown build, by how its threads begin: gRPC's are C++ threads, those
    of the HTTP library are not.
    """
    last = next((f for f in reversed(backtrace.frames) if not _begins(f)), None)
    if not backtrace.complete or last is None:
        return Component.OTHER
    module = plain_module(last.module)
    if module == "libstdc++.so":
        return Component.GRPC_FRONTEND
    return Component.HTTP_FRONTEND if module == SERVER and _ends(backtrace) else Component.OTHER


def _begins(frame: Frame) -> bool:
    return plain_module(frame.module) in ("libc.so", "libpthread.so")


def _ends(backtrace: Backtrace) -> bool:
    """Whether the stack is whole down to the start of its thread."""
    return _begins(backtrace.frames[-1]) and backtrace.frames[-1].index > 2
