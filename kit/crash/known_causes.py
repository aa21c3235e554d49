"""Advice for causes that any server can have and that no entry of the catalog is about."""

from __future__ import annotations

import re

from kit.crash.death import Death
from kit.crash.log.phrases import Topic
from kit.crash.stack.site import fault_frames, plain_module

_SIGBUS = 7
_SIGILL = 4
_SIGKILL = 9
#: Libraries that the server's image brings itself; from the system's folders they are preloaded or
#: found first through LD_LIBRARY_PATH.
_OWN = re.compile(r"^lib(?:re2|protobuf|grpc|absl_\w+|ssl|crypto|curl|boost_\w+|jemalloc|tcmalloc)")


def known_advice(death: Death) -> list[str]:
    """Sentences on causes that the death itself shows; none where it shows none."""
    said = " ".join(death.words)
    advice: list[str] = []
    if death.signal == _SIGBUS:
        advice.append(
            "A bus error in shared memory means that /dev/shm could not give the page: raise "
            "--shm-size (docker), or mount an emptyDir with medium Memory and a larger sizeLimit "
            "at /dev/shm (Kubernetes)."
        )
    if death.signal == _SIGILL:
        advice.append(
            "An illegal instruction is code that was built for another processor: use a build for "
            "this one."
        )
    if death.topic is Topic.KILLED and "probe" in said:
        advice.append(
            "The kubelet ended it because its probe failed. That is no crash of the server: where "
            "it only needs longer to load its models, give it a startupProbe or a longer "
            "initialDelaySeconds; where it was up before, look at what it did not answer for."
        )
    elif death.topic is Topic.KILLED:
        advice.append(
            "It was ended from outside, so this says nothing of the cause: look at the log of the "
            "life before (kubectl logs --previous), and at the events of its pod, unit or node."
        )
    if death.signal == _SIGKILL and Topic.OUT_OF_MEMORY not in death.topics:
        advice.append(
            "137 and SIGKILL alone do not say who killed it: only a reason OOMKilled, the kernel's "
            "log or a cgroup's memory.events says that memory was the cause. Else look for probes, "
            "a grace period that ran out, or a stop by hand."
        )
    if foreign := _foreign_library(death):
        advice.append(
            f"It died in {foreign}, of which the server has a copy of its own: a library that is "
            "preloaded (LD_PRELOAD) or found first (LD_LIBRARY_PATH) clashes with it. Start it "
            "without those."
        )
    if death.starting and death.reason:
        advice.append(
            f"It did not come up. The first error of its log is the one to correct: {death.reason}"
        )
    return advice


def _foreign_library(death: Death) -> str | None:
    if death.backtrace is None:
        return None
    top = next(iter(fault_frames(death.backtrace)), None)
    module = plain_module(top.module) if top else None
    return module if module and _OWN.match(module) else None
