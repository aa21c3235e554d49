"""The words of signals, aborts, kernels, supervisors and Triton itself; see `phrases`."""

from __future__ import annotations

from kit.crash.log.phrases import Phrase, Subject, Topic, Where
from kit.crash.log.phrases import phrase as _p

_WORDS = (
    "Segmentation fault|[Ss]egmentation violation|Aborted|Bus error|Illegal instruction"
    "|Floating point exception|Trace/breakpoint trap|Bad system call|IOT instruction"
)
_LOWER = (
    "segmentation fault|aborted|abort|bus error|illegal (?:hardware )?instruction"
    "|floating.point exception|killed"
)
#: glibc's words for a damaged heap; one pattern, found through several literals.
_HEAP = (
    r"(?:\*\*\* (?:\*\*)?(?:Error in|glibc detected \*\*\*) .{1,120}: |Fatal glibc error: "
    r"|[\w./\-]{1,80}: (?=malloc\.c))?"
    r"(?:free\(\): (?:invalid|double free|too many chunks|unaligned|corrupted)"
    r"|double free or corruption"
    r"|malloc\(\): (?:corrupted|invalid|unaligned|mismatching|unsorted|memory corruption"
    r"|smallbin|largebin)"
    r"|malloc_consolidate\(\): (?:invalid|unaligned)|realloc\(\): (?:invalid|unaligned)"
    r"|calloc\(\): |(?:tcache_thread_shutdown|_int_malloc|_int_free)\(\): "
    r"|corrupted (?:size vs\. prev_size|double-linked list)|munmap_chunk\(\): invalid"
    r"|(?:invalid fastbin entry|break adjusted to free malloc space)"
    r"|\*\*\* (?:stack smashing|buffer overflow|%n in writable segment) detected"
    r"|malloc assertion failure in |(?:Fatal glibc error: )?malloc\.c:\d{1,6}\b"
    r"|(?:src/)?tcmalloc\.cc:\d{1,5}\] Attempt to free invalid pointer"
    r"|Attempt to free invalid pointer 0x).{0,120}"
)
_HEAP_NEEDLES = ("free()", "double free", "malloc", "realloc()", "corrupted ", "munmap_chunk",
                 "detected ***", "tcache", "calloc()", "fastbin", "invalid pointer")  # fmt: skip
_STATUS = r"(?P<status>-[1-9]\d?|13[0-9]|14[0-3]|159)(?!\d|\.\d)"
#: Exit statuses of processes that a signal ended, as shells, engines and supervisors print them.
_EXIT = (
    # an error that wraps itself: "it failed with code: it failed with code: 132"
    r"(?:(?P<again>(?:\S{1,80} ){1,8}?\S{1,80}: )(?=(?P=again)))?"
    r"(?:\"?(?:Last State: {1,20}Terminated, )?\"?(?:(?:[A-Z][a-z]{1,20}){0,3}E|e)xit ?[Cc]ode"
    r"\"?\s{0,4}[:=]\s{0,20}\"?"
    r"|(?P<who>(?:\S{1,200} ){0,6}?)(?:has )?"
    r"(?:[Ee]xited|exit|stopped|terminated|finished|failed|died|quit)"
    r" (?:unexpectedly )?(?:with|by|and)?:? ?(?:\((?:pid|PID)[: ]\d{1,8}\) )?"
    r"(?:an? )?(?:non-?zero )?"
    r"(?:exit |return |status )?(?:code|status):?\s{0,4}[\[(]?"
    r"|(?:[\w.]{1,80}: )?(?:Command .{1,600}|\S{1,80}) returned non-zero exit status "
    r"|[Pp]rocess (?:\S{1,80} )?(?:exited|finished) with (?:exit )?(?:code|status) "
    r"|(?:[Rr]eturn ?code|rc|RC|returncode|return code|exit status|[Ee]xit code|EXIT CODE|status)"
    r"\s?[:=]?\s?"
    r"|(?:[\w.]{1,80}Exception )?exitCode[\"']?[:=] ?"
    r"|exitcode {0,3}: |exited: .{1,200}\(exit status )" + _STATUS
)

# fmt: off
WORDING: tuple[Phrase, ...] = (
    # who prints its own end
    _p(Topic.SIGNAL, "Signal (",
       r"Signal \((?P<signal>\d{1,2})\) received\.?\s{0,8}(?:$|Signal|\d{1,2}# |\[|\"|')",
       at=Where.PRINTED),
    _p(Topic.SIGNAL, "Signal: ", r"Signal: [\w ]{3,40}\((?P<signal>\d{1,2})\)", at=Where.PRINTED),
    _p(Topic.SIGNAL, "Signal: ", r"Signal: (?P<signal>\d{1,2}) \([A-Z]{2,6}\)", at=Where.START),
    _p(Topic.SIGNAL, "Caught signal",
       r"Caught signal (?P<signal>\d{1,2}(?= \()|SIG[A-Z]{2,6}\b)", at=Where.PRINTED),
    _p(Topic.SIGNAL, "suspect faulting address",
       rf"Caught (?P<signal>{_WORDS}), suspect faulting address", at=Where.PRINTED),
    _p(Topic.SIGNAL, "encountered in worker",
       rf"(?:ERROR: )?Unexpected (?P<signal>{_LOWER}) encountered in worker\b", at=Where.ERROR),
    _p(Topic.SIGNAL, "exited (code: ",
       r"(?P<who>(?:\S{1,80} ){0,6}?)exited \(code: \d{1,5}, signal: (?P<signal>\d{1,2})\)",
       at=Where.START),
    _p(Topic.SIGNAL, "exited with 'signal ",
       r"Process .{1,120} exited with 'signal (?P<signal>\d{1,2})", at=Where.START),
    _p(Topic.SIGNAL, ("make: *** [", "exit signal "),
       rf"(?:make: \*\*\* \[[^\]]{{1,200}}\]|child pid \d{{1,8}} exit signal)"
       rf" (?P<signal>{_WORDS})\b",
       at=Where.START),
    _p(Topic.SIGNAL, "SIG",  # Go's runtime
       r"(?P<signal>SIG(?:SEGV|ILL|BUS|ABRT|FPE|TRAP|SYS)): [a-z][a-z ]{3,40}$", at=Where.START),
    _p(Topic.SIGNAL, "Uncaught SIG",  # Cosmopolitan's runtime
       r"(?:error: )?Uncaught (?P<signal>SIG[A-Z]{2,6}) \(.{0,80}", at=Where.START),
    _p(Topic.SIGNAL, "signal SIG",
       r"(?P<who>(?:Program|Process|Thread|Child|Worker|Command|process|[\w.\-/]{1,60}) ?\b"
       r".{0,120}? )?"
       r"(?:received|terminated with|terminated by|died with|killed by|exited due to"
       r"|died from|crashed with) signal (?P<signal>SIG[A-Z]{2,6})", at=Where.START),
    _p(Topic.SIGNAL, "*** SIG",
       r"(?:\*\*\* )?(?P<signal>SIG[A-Z]{2,6}) (?:\(@0x[0-9a-f]{1,16}\) ?)?(?:, see \S{1,60} )?"
       r"received (?:at time=|by PID)", at=Where.PRINTED),
    _p(Topic.SIGNAL, ", PID: ", r"(?P<signal>SIG[A-Z]{2,6})\(\d{1,2}\), PID: \d{1,8}",
       at=Where.PRINTED),
    _p(Topic.SIGNAL, "*** Aborted at",
       r"\*\*\* Aborted at \d{5,12} \(unix time\)", at=Where.PRINTED, signal=6),
    _p(Topic.SIGNAL, "Fatal Python error",
       rf"Fatal Python error: (?:.{{0,60}}?(?P<signal>(?i:{_WORDS})))?.{{0,80}}", at=Where.PRINTED),
    _p(Topic.SIGNAL, "!!!!!!!",
       r"!{3,9} (?:.{0,40} )?(?P<signal>Segfault|Segmentation fault|Bus error|Abort|SIG[A-Z]{3,5})"
       r"(?: encountered)? !{3,9}", at=Where.PRINTED),
    _p(Topic.SIGNAL, "egmentation", rf"(?P<signal>{_WORDS}|{_LOWER})(?: *\(core dumped\))?\.?\s*$",
       at=Where.START),
    _p(Topic.SIGNAL, (" fault: ", "trap: ", "error: ", "Killed: ", "exception: ", "instruction: "),
       rf"(?P<signal>{_WORDS}|Abort trap|Killed): \d{{1,2}}\s*$", at=Where.START),
    _p(Topic.SIGNAL, "Aborted",
       r"(?P<signal>Aborted)(?: *\(core dumped\))?\.?\s*$", at=Where.START),
    _p(Topic.SIGNAL, "Bus error", r"(?P<signal>Bus error)(?: *\(core dumped\))?\.?\s*$",
       at=Where.START),
    _p(Topic.SIGNAL, "Illegal instruction",
       r"(?P<signal>Illegal instruction)(?: *\(core dumped\))?\.?\s*$", at=Where.START),
    _p(Topic.SIGNAL, "Floating point exception",
       r"(?P<signal>Floating point exception)(?: *\(core dumped\))?\.?\s*$", at=Where.START),
    _p(Topic.SIGNAL, " dumped)",
       r"(?:[\w./\-]{1,200}: (?:line \d{1,6}: +\d{1,8} +|\S{1,20}: |task \d{1,6}: )?|\d{1,8} +)?"
       rf"(?P<signal>{_WORDS}|{_LOWER}|quit) *\(core dumped\)", at=Where.START),
    _p(Topic.SIGNAL, ": line ",
       rf"[\w./\-]{{1,200}}: line \d{{1,6}}: +\d{{1,8}} (?P<signal>{_WORDS}|Killed)\b",
       at=Where.START),
    _p(Topic.SIGNAL, "sh: ", rf"(?:zsh|bash|fish|sh|-bash): (?P<signal>{_LOWER}|{_WORDS}|Killed)\b",
       at=Where.START),
    _p(Topic.SIGNAL, "Killed",
       r"^(?:\[\d\]\+? {1,3}(?:\d{1,8} )?)?\s{0,8}(?P<signal>Killed)(?:\s{2,}.{0,200})?$"),
    _p(Topic.SIGNAL, "Killed", r"(?P<signal>Killed)$", at=Where.START),
    _p(Topic.SIGNAL, "[1]",
       rf"^\[\d\][+\-]? {{1,6}}(?:\d{{1,8}} )?(?P<signal>{_LOWER}|{_WORDS}|Killed)\b"),
    _p(Topic.SIGNAL, "ignal",
       r"^(?P<who>(?:\S{1,80} ){0,8}?)(?:was |been |is )?(?:killed|terminated|died|ended"
       r"|crashed|exited)"
       r" (?:(?:\(?\w+\)? )?(?:by|with|on|from|due to|because of) )"
       r"(?:a )?[Ss]ignal:? ?\(?(?P<signal>\d{1,2}|SIG[A-Z]{2,6})\b"),
    _p(Topic.SIGNAL, "killed by signal",
       rf"(?P<who>(?:\S{{1,80}} ){{0,8}}?)(?:is |was )?killed by signal: "
       rf"(?P<signal>{_WORDS}|Killed|Terminated)", at=Where.ERROR),
    _p(Topic.SIGNAL, ": signal: ",  # Go's words
       rf"(?P<who>(?:\S{{1,80}} ){{0,8}}?)(?:has |was )?(?:terminated|exited|died|failed|crashed"
       rf"|stopped|ended|returned error): signal: (?P<signal>{_LOWER}|floating point exception"
       r"|illegal instruction)\b(?: *\(core dumped\))?", at=Where.ERROR),
    _p(Topic.SIGNAL, "<Signals.",
       r"(?:Command .{1,600} )?died with <Signals\.(?P<signal>SIG[A-Z]{2,6}): \d{1,2}>",
       at=Where.ERROR),
    _p(Topic.SIGNAL, "<Signals.", r"^\S{0,40}\s*-?<Signals\.(?P<signal>SIG[A-Z]{2,6}): \d{1,2}>"),
    _p(Topic.SIGNAL, "status=",
       r"(?P<who>.{0,400}[\s(])?code=(?:dumped|killed), (?:status"
       r"|signal)=(?P<signal>\d{1,2})/\w{2,6}", at=Where.START),
    _p(Topic.SIGNAL, "signal=",
       r"(?P<who>.{0,400}[\s(])?code=(?:dumped|killed), signal=(?P<signal>[A-Z]{2,6})\b",
       at=Where.START),
    _p(Topic.SIGNAL, "on signal",
       r"(?P<who>.{0,200})\bexited on signal (?P<signal>\d{1,2})\b.{0,40}", at=Where.START),
    _p(Topic.SIGNAL, "received by PID",
       r"(?:traceback\s{0,4}: )?Signal (?P<signal>\d{1,2}) \(SIG[A-Z]{2,6}\) received by PID \d{"
       r"1,8}", at=Where.START),
    _p(Topic.SIGNAL, "(signal ",
       rf"(?:EXIT STRING|exit string): (?P<signal>{_WORDS}|Killed) \(signal \d{{1,2}}\)"),
    _p(Topic.SIGNAL, "terminated by SIG",
       r"(?P<who>(?:\S{1,80} ){0,8}?)\(?terminated by (?P<signal>SIG[A-Z]{2,6})", at=Where.START),
    _p(Topic.SIGNAL, "[signal SIG",
       r"\[signal (?P<signal>SIG[A-Z]{2,6}):? ?.{0,80}", at=Where.START),
    _p(Topic.SIGNAL, "signal arrived during",
       r"(?P<signal>SIG[A-Z]{2,6}): .{0,60}|signal arrived during cgo execution", at=Where.START),
    _p(Topic.SIGNAL, "SIG",
       r"#  (?P<signal>SIG[A-Z]{2,6}) \(0x[0-9a-f]{1,2}\) at pc=0x.{0,80}", at=Where.START),
    _p(Topic.SIGNAL, "sig=",
       r"(?:audit.{0,80}: )?(?:.{0,200} )?comm=\"(?P<name>[^\"]{1,20})\".{0,300}? sig=(?P<signal"
       r">\d{1,2})\b", at=Where.START),
    _p(Topic.SIGNAL, "potentially unexpected",
       r"(?P<name>[\w.:\-]{1,20})\[\d{1,8}\]: potentially unexpected fatal signal (?P<signal>\d{"
       r"1,2})"),
    _p(Topic.SIGNAL, "status with signal",
       r"Child .{0,40}status with signal (?P<signal>SIG[A-Z]{2,6})"),
    # the kernel
    _p(Topic.SIGNAL, "]: segfault at", r"(?P<name>[\w.:\- ]{1,16})\[\d{1,8}\]: segfault at .{0,80}",
       signal=11),
    _p(Topic.SIGNAL, "general protection",
       r"(?P<name>[\w.:\-]{1,16})\[\d{1,8}\]:? general protection .{0,80}", signal=11),
    _p(Topic.SIGNAL, "trap invalid opcode",
       r"(?P<name>[\w.:\-]{1,16})\[\d{1,8}\]:? trap invalid opcode .{0,80}", signal=4),
    _p(Topic.SIGNAL, "trap divide error",
       r"(?P<name>[\w.:\-]{1,16})\[\d{1,8}\]:? trap divide error .{0,80}", signal=8),
    _p(Topic.SIGNAL, "trap int3",
       r"(?P<name>[\w.:\-]{1,16})\[\d{1,8}\]:? trap int3 .{0,80}", signal=5),
    _p(Topic.CORE, "Core was generated by", r"Core was generated by [`'](?P<name>[^']{1,400})",
       at=Where.START),
    _p(Topic.CORE, "dumped core",
       r"Process \d{1,8} \((?P<name>[^)]{1,40})\) of user \d{1,8} dumped core"),
    _p(Topic.CORE, " + 0x",  # only who reads a core file prints frames so
       r"#\d{1,3} {1,2}0x[0-9a-f]{16} \S.{0,400} \(\S{1,400} \+ 0x[0-9a-f]{1,16}\)$",
       at=Where.START),
    _p(Topic.CORE, "PID: ", r"\s{0,20}PID: \d{1,8} \((?P<name>[^)]{1,40})\)", at=Where.START,
       fatal=False),
    _p(Topic.CORE, "Executable: ", r"Executable: (?P<name>\S{1,200})", at=Where.START, fatal=False),
    _p(Topic.CORE, "Command Line: ",
       r"Command Line: (?P<name>.{1,300})", at=Where.START, fatal=False),
    _p(Topic.DEBUGGER, "Attaching to",
       r"Attaching to (?:process|program:? .{0,200}, process) \d{1,8}",
       at=Where.START, fatal=False),
    _p(Topic.DEBUGGER, "gdb",
       r"\bgdb\b.{0,160}?\s(?:-p|--pid|attach)[ =]?\d", fatal=False),
    _p(Topic.DEBUGGER, "py-spy", r"py-spy (?:dump|top|record)", fatal=False),
    _p(Topic.DEBUGGER, "stack ",
       r"(?:[$#] )?(?:sudo )?(?:p|eu-)stack (?:-p )?\d{1,8}", at=Where.START, fatal=False),
    _p(Topic.DEBUGGER, "Stack of ",
       r"[~+=-]{3,200} ?Stack of .{1,80} \(\d{1,20}\) ?[~+=-]{3}", at=Where.START, fatal=False),
    _p(Topic.INTERRUPT, "^C", r"\^C(?:\s|$)", at=Where.START, fatal=False),
    _p(Topic.DEBUGGER, "SIGINT", r"received signal SIGINT", fatal=False),
    _p(Topic.INTERRUPT, "death signal", r"Received 2 death signal", fatal=False),
    # aborts
    _p(Topic.EXCEPTION, "terminat",
       r"terminate called (?:after throwing an instance of|without an active"
       r"|recursively).{0,200}"
       r"|(?:libc\+\+abi(?:\.dylib)?: )?terminating (?:due to|with) "
       r"(?:an )?uncaught exception.{0,200}", at=Where.PRINTED, signal=6),
    _p(Topic.EXCEPTION, "what():", r"\bwhat\(\):.{0,250}", fatal=False),
    _p(Topic.EXCEPTION, "what():  ",  # so, with two blanks, only an end by an exception is printed
       r"what\(\):  \S.{0,250}", at=Where.START, signal=6),
    _p(Topic.HEAP, _HEAP_NEEDLES, _HEAP, at=Where.PRINTED, signal=6),
    _p(Topic.ASSERTION, "ASSERTION FAILED", r"ASSERTION FAILED: .{0,120}",
       at=Where.PRINTED, of=Subject.SERVER, signal=6),
    _p(Topic.ASSERTION, "Assertion `",
       r"(?:[^\s:]{1,200}:\d{1,6}: .{1,400}?: )?Assertion `.{1,200}' failed", signal=6),
    _p(Topic.ASSERTION, "heck failed:",
       r"(?:\bF\d{4,8} |\bC \d{1,8} \d{1,8}\] |\bF (?:tensorflow|external|\./)|\[F ?|^F "
       r"|FATAL: ?).{0,120}Check failed:"
       r" .{0,120}", signal=6),
    _p(Topic.ASSERTION, "assertion failed: ",
       r"[\w./\-]{1,120}\.(?:cc|cpp|c|hh?|hpp|inc):\d{1,6}\]\s{1,20}assertion failed: .{1,160}",
       at=Where.START, signal=6),
    _p(Topic.ASSERTION, "GGML_A",
       r"(?:\S{1,200}:\d{1,6}: )?GGML_(?:ASSERT|ABORT)"
       r"(?:\(.{1,300}\) failed|: \S{1,200}:\d{1,6}: .{1,200})", at=Where.START, signal=6),
    _p(Topic.ASSERTION, "current device: ",  # which llama.cpp prints before it aborts
       r"current device: \d{1,3}, in function \w{1,100} at .{1,200}", at=Where.START, signal=6),
    _p(Topic.ASSERTION, "Check failure stack",
       r"\*\*\* Check failure stack trace: \*\*\*", at=Where.PRINTED, signal=6),
    _p(Topic.ASSERTION, "fatal error: ",
       r"fatal error: (?:unexpected signal|runtime:|all goroutines).{0,80}", at=Where.START),
    _p(Topic.ASSERTION, "pure virtual method",
       r"pure virtual method called", at=Where.PRINTED, signal=6),
    _p(Topic.SANITIZER, "AddressSanitizer",
       r"={0,3}(?:==\d{1,8}==)?\s?ERROR: AddressSanitizer: (?P<signal>SEGV|BUS|FPE|ILL"
       r"|ABRT)\b.{0,120}", at=Where.PRINTED),
    _p(Topic.SANITIZER, "Sanitizer: ",
       r"={0,3}(?:==\d{1,8}==)?\s?(?:ERROR|WARNING): (?:Address|Memory|Thread"
       r"|HWAddress)Sanitizer:"
       r" (?!SEGV|BUS|FPE|ILL|ABRT|failed to intercept|data race|lock-order|thread leak).{0,160}",
       at=Where.PRINTED),
    _p(Topic.SANITIZER, "SUMMARY: ",
       r"SUMMARY: (?:Address|Memory|HWAddress)Sanitizer: (?!\d{1,12} byte|odr-violation).{1,160}",
       at=Where.START),
    # want of memory, and others who end a process
    _p(Topic.OUT_OF_MEMORY, "emory: Kill",
       r"(?P<who>(?:\S{1,40} ){0,3})[Oo]ut of memory: Kill(?:ed)? process \d{1,8},? "
       r"\((?P<name>[^)]{1,40})\).{0,80}", at=Where.START, signal=9),
    _p(Topic.OUT_OF_MEMORY, "oom-kill:", r"oom-kill:constraint=.{0,600}task=(?P<name>[^,\s]{1,40})",
       signal=9),
    _p(Topic.OUT_OF_MEMORY, "oom_reaper",
       r"oom_reaper: reaped process \d{1,8} \((?P<name>[^)]{1,40})\)", signal=9),
    _p(Topic.OUT_OF_MEMORY, "invoked oom-killer",
       r"(?P<name>[\w.:\-]{1,40}) invoked oom-killer", fatal=False),
    _p(Topic.OUT_OF_MEMORY, ("OOMKilled", "OOM Killed"),
       r"(?:\"?[Rr]eason\"?:\s{0,20}\"?OOM ?Killed|\"?OOMKilled\"?[:=]\s{0,4}[Tt]rue"
       r"|^\s{0,20}OOM ?Killed\b(?!\"?\s?[:=])"
       r"|\s[01]/\d{1,2}\s+OOMKilled\b|\bOOMKilled \(exit code 137\))", signal=9),
    _p(Topic.OUT_OF_MEMORY, "OOMKilled",
       r"(?:[Cc]ontainer|[Pp]od|[Pp]rocess|[Ww]orker) (?:\S{1,200} ){0,4}?(?:was |been "
       r"|got )OOMKilled\b", at=Where.START, signal=9),
    _p(Topic.OUT_OF_MEMORY, "OOMKilling", r"OOMKilling\b.{0,200}", signal=9),
    _p(Topic.OUT_OF_MEMORY, ("oom-kill", "oom_kill"),
       r"Failed with result 'oom-kill'|Detected \d{1,5} oom[-_]kill event", signal=9),
    _p(Topic.OUT_OF_MEMORY, "OOM kill",
       r"killed by the OOM killer|Detected \d{1,5} oom-kill|A process of this unit has been kill"
       r"ed by the OOM", signal=9),
    _p(Topic.OUT_OF_MEMORY, "container oom", r"\bcontainer oom [0-9a-f]{6,64}", signal=9),
    _p(Topic.OUT_OF_MEMORY, "low on resource: memory",
       r"The node was low on resource: memory\..{0,200}"),
    _p(Topic.OUT_OF_MEMORY, "exceeded memory limit",
       r"(?:[Ss]tep|[Jj]ob|Exceeded|StepId)\S{0,40} exceeded memory limit.{0,80}",
       at=Where.START, signal=9),
    _p(Topic.KILLED, "probe, will be restarted",
       r"(?:[Cc]ontainer \S{1,80} )?failed (?:liveness|startup) probe, will be restarted"),
    _p(Topic.KILLED, "low on resource", r"The node was low on resource: (?!memory).{0,160}"),
    _p(Topic.KILLED, "Evicted",
       r"(?:Reason|reason|Status)\"?: {1,20}\"?Evicted|^\s{0,20}Warning\s+Evicted\b"
       r"|\s[01]/\d{1,2}\s+Evicted\b"),
    _p(Topic.KILLED, "imed out. Termin",
       r"(?:start|Start|stop|watchdog|Watchdog).{0,40}(?:timed out|timeout).{0,20}Terminating"
       r"|(?:Start|State) .{0,60}timed out\. (?:Terminating|Killing)"),
    _p(Topic.KILLED, "watchdog timeout", r"[Ww]atchdog timeout \(limit .{0,40}", at=Where.START),
    _p(Topic.KILLED, "with result 'signal'", r"Failed with result '(?:signal|core-dump|watchdog)'"),
    _p(Topic.KILLED, "with result 'core-dump'", r"Failed with result 'core-dump'"),
    _p(Topic.KILLED, "CrashLoopBackOff",
       r"(?:reason\"?: \"?|\s[01]/\d{1,2}\s+|Reason:\s{1,20}|^\s*)(?:Init:)?CrashLoopBackOff\b"),
    _p(Topic.KILLED, "waiting to start: CrashLoop",
       r"(?:Error from server \(\w{1,20}\): )?container \S{1,80} in pod \S{1,120} is waiting t"
       r"o start: "
       r"CrashLoopBackOff", at=Where.START),
    _p(Topic.KILLED, "restarting failed container",
       r"[Bb]ack-off (?:\d[\dhms.]{0,12} )?restarting failed container"),
    _p(Topic.KILLED, "Timeout expired", r"Exit timeout expired\. Exiting immediately", fatal=False),
    _p(Topic.KILLED, "MPI_ABORT", r"MPI_ABORT was invoked on rank \d{1,5}", at=Where.START),
    _p(Topic.KILLED, "but 1 process returned",
       r"Primary job\s{1,3}terminated normally, but 1 process returned", at=Where.START),
    _p(Topic.KILLED, "detected that one or more processes exited",
       r"(?:mpi|prte|orte)\w{3,6} detected that one or more processes exited with non-zero status",
       at=Where.START),
    _p(Topic.KILLED, "MPI_ERRORS_ARE_FATAL (", r"\*{3} MPI_ERRORS_ARE_FATAL \(", at=Where.RECORD),
    _p(Topic.KILLED, " CANCELLED AT ",
       r"\*{3} (?:JOB|STEP) \S{1,40} ON \S{1,120} CANCELLED AT \S{1,40} DUE TO .{1,80}",
       at=Where.ERROR),
    _p(Topic.OUT_OF_MEMORY, "Out Of Memory",
       r"(?:srun: )?error: \S{1,120}: tasks? [\d,\-]{1,80}: Out Of Memory",
       at=Where.START, signal=9),
    _p(Topic.KILLED, "BAD TERMINATION",
       r"=? ?BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES", at=Where.START),
    _p(Topic.KILLED, "non-zero exit code",
       r"(?:Primary job|mpirun|.{0,80}processes?) .{0,80}returned\s+a non-zero exit code",
       at=Where.START),
    _p(Topic.SIGNAL, "terminated due to signal",
       r"Worker with pid \d{1,8} was terminated due to signal (?P<signal>\d{1,2})", at=Where.START),
    _p(Topic.KILLED, "Backend worker",
       r"Backend worker (?:monitoring thread interrupted or backend worker )?process "
       r"(?:has )?died"),
    _p(Topic.SIGNAL, "orker (pid",
       r"Worker \(pid:? ?\d{1,8}\) was sent (?P<signal>SIG[A-Z]{2,6})!?"
       r"(?: Perhaps out of memory\?)?", at=Where.START),
    _p(Topic.EXIT, "was sent code", rf"Worker \(pid:? ?\d{{1,8}}\) was sent code {_STATUS}!",
       at=Where.START),
    _p(Topic.KILLED, "error: Worker died",
       r"Load model failed: \S{1,200}, error: Worker died\b"),
    _p(Topic.KILLED, "Child process [", r"Child process \[\d{1,8}\] died", at=Where.START),
    _p(Topic.KILLED, "terminated abruptly",
       r"A (?:child )?process in the process pool was terminated abruptly.{0,80}", at=Where.ERROR),
    # Triton
    _p(Topic.STUB, "it will be restarted",
       r"Stub process .{0,120}is unhealthy and it will be restarted", of=Subject.STUB,
       restarted=True),
    _p(Topic.STUB, "Stub process",
       r"Stub process .{0,120}?(?:is not healthy|is unhealthy(?! and it will be restarted)).{0,60}",
       of=Subject.STUB),
    _p(Topic.STUB, "tub process",
       r"(?:Failed to initialize stub, )?[Ss]tub process .{0,120}?(?:exited|died|crashed"
       r"|terminated) unexpectedly.{0,60}", of=Subject.STUB),
    _p(Topic.STUB, "<defunct>", r"triton_python_b\w{0,20}\]? <defunct>", of=Subject.STUB),
    _p(Topic.SERVER_GONE, "Non-graceful", r"Non-graceful termination detected",
       of=Subject.SERVER),
    _p(Topic.MODEL, "failed to load '",
       r"failed to load '(?P<model>[^']{1,200})' version \S{1,20}: (?P<reason>.{1,400})",
       fatal=False),
    _p(Topic.MODEL, "failed to load all models",
       r"creating server: .{0,200}failed to load all models", fatal=False),
    _p(Topic.MODEL, "UNAVAILABLE: ", r"\| UNAVAILABLE: (?P<reason>[^|]{1,300})", fatal=False),
    _p(Topic.MODEL, "Poll failed for model",
       r"Poll failed for model directory '(?P<model>[^']{1,200})': (?P<reason>.{1,300})",
       fatal=False),
    _p(Topic.START, "shared libraries",
       r"(?:\S{1,200}: )?error while loading shared libraries: .{1,200}", at=Where.START),
    _p(Topic.START, "symbol lookup error",
       r"(?:\S{1,200}: )?symbol lookup error: .{1,300}", at=Where.START),
    _p(Topic.START, "dynamic linker",
       r"(?:\S{1,200}: )?.{0,100}Inconsistency detected by ld\.so.{0,100}",
       at=Where.START, signal=None),
    _p(Topic.EXIT, ("xit", "ode", "rc"), _EXIT, guard=_STATUS, at=Where.START),
    _p(Topic.EXIT, ("terminated with exit", "(exitcode: ", "ExitCode"),
       r"(?:(?:command|container|process) terminated with exit code |failed \(exitcode: "
       rf"|ExitCode[=:] ?){_STATUS}", guard=_STATUS),
    # what only waits
    _p(Topic.HANG, "blocked for more than",
       r"task (?P<name>[\w.:\-]{1,20}):\d{1,8} blocked for more than \d{1,6} seconds",
       fatal=False),
    _p(Topic.HANG, "soft lockup", r"soft lockup - CPU#\d{1,4} stuck for \d{1,5}s", fatal=False),
    _p(Topic.HANG, "live models and",
       r"Timeout (?:[0-9]|-\d{1,5}): Found [1-9]\d{0,4} live models and .{0,80}", fatal=False),
    _p(Topic.HANG, "UNLOADING", r"\|\s*UNLOADING\b", fatal=False),
    _p(Topic.KILLED, "iveness probe failed", r"Liveness probe failed: .{0,200}", fatal=False),
    _p(Topic.HANG, "ODDITY, resuming", r"ODDITY, resuming when not paused", fatal=False),
)
# fmt: on
