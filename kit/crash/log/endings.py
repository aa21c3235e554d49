"""The grammar of a process's end: who, how it ended, and why; see `phrases`.

Supervisors, launchers and neighbours all say it in the same form, "Worker 3 (pid 12) died", "the
model runner has unexpectedly stopped", "failed to start a server", so that the words for who and
for how need not be listed together. An end that may be a good one, "exited", needs a status.
"""

from __future__ import annotations

from kit.crash.log.phrases import Phrase, Topic, Where
from kit.crash.log.phrases import phrase as _p

#: What is a process, or is one as far as its log tells.
_NOUN = (
    r"(?i:(?:sub|co)?process|servers?|workers?|engines?|executors?|ranks?|containers?|pods?"
    r"|services?|runners?|replicas?|actors?|schedulers?|shards?|backends?|daemons?|instances?"
    r"|child(?:ren)?|proxy|controllers?|launchers?|programs?|applications?|app|nodes?|raylet"
    r"|detokenizers?|vllm|sglang|tritonserver|triton|ollama|lmdeploy|tgi|llama[.\-]?(?:cpp|server)"
    r"|pool|jobs?|srun|deployments?|predictors?|routers?|gateways?|agents?|kernels?"
    r"|enginecore\w{0,12}|\w{1,30}(?:worker|server|engine|process|proc|executor|runner|actor))\b"
)
#: Its names stand before that word, its number, its place and what it works for behind it.
_NAME = r"(?:[\w.\-'\"/#:@()=,\[\]]{1,80}(?<!:) )"
_NUMBER = (
    r"(?> ?(?:\([^()]{1,100}(?:\(s\)[^()]{1,100})?\)|\[[^\[\]]{1,80}\]|'[^']{1,120}'"
    r"|\"[^\"]{1,120}\")"
    r"|[ :#=]{1,2}(?=[\w.\-/#:]{0,60}\d)[\w.\-/#:]{1,120}+"
    r"|,? (?:for|of|on|in|with|at|from|running|serving) (?:[a-z]{1,20} )?\S{1,120}+)"
)
_WHO = rf"(?<!\w)(?P<who>{_NAME}{{0,5}}?{_NOUN}{_NUMBER}{{0,3}}),?:? "
_BE = r"(?:appears? to |seems? to )?(?:(?:has|have|had|was|were|is|are|just|been|being) ){0,2}"
_BADLY = r"(?i:unexpectedly|suddenly|abruptly|abnormally|prematurely|silently)"
_ENDED = (
    r"(?i:exit(?:ed|s)|terminated|stopped|quit|died|crashed|ended|failed|shut ?down|disappeared)"
)
#: Ends that are no good ones, whatever else is said.
_DEAD = (
    rf"(?:{_BE}(?:{_BADLY} )?(?i:died|crashed|dead)\b(?![\-_(])"
    r"(?! ?(?:of\b|lock|letter|code|line|nodes))"
    rf"|{_BE}{_ENDED} {_BADLY}|{_BE}{_BADLY} (?:been )?{_ENDED}"
    r"|(?:is |are )?no longer (?:running|alive)|(?:is|are) (?:gone|not alive)\b"
    r"|(?:has |have )?(?:been |was |were )?killed\b(?! by (?:the )?(?:user|admin))"
    r"|has terminated(?=:)|(?:exited|terminated|stopped|quit|died|crashed) with "
    r"(?:an |the following )?(?:error|exception|failure)"
    rf"|{_BE}{_ENDED} (?:immediately |early )?(?:because|due to) .{{0,80}}?"
    r"(?i:fail|error|crash|exception|died|killed|signal|memory)\w{0,10}"
    r"|returned (?:an )?error\.?$)"
)
_AN_ERROR = r"(?:[Ee]rror|ERROR|CRITICAL|FATAL)\b"
#: Any status but 0, none of HTTP's, and the words before it.
_STATUS = (
    r"(?P<status>-?(?!20[0-8]\b|[345]\d\d\b)[1-9]\d{0,9}|0x[0-9a-fA-F]{1,8})"
    r"(?![\d.]*\d)(?! (?:second|minute|ms\b|sec))"
)
_CODE = (
    r"(?:an? )?(?:non-?zero )?(?:error |exit |return |status ){0,2}(?:return|exit)?(?:code|status)"
    r":?[ =]{0,3}[\[(]?"
)
_LEFT = (
    rf"{_BE}(?:{_ENDED}|finished)(?: {_BADLY}| early| immediately)?(?:,|:)?"
    rf"(?: with| and)? ?\(?{_CODE}{_STATUS}"
)
#: The same for a name that is no such word: a container's, as compose writes it.
_CONTAINER = r"(?P<who>(?:[Cc]ontainer )?[\w.\-/]{1,80}) "
#: Commands of servers, as a script that runs them names them.
_COMMAND = (
    r"(?:tritonserver|trtllm-serve|mpirun|vllm|sglang|lmdeploy|launch_server|llama-server"
    r"|text-generation|launch_triton_server|ollama|torchrun)"
)
_TO_START = r"(?:start(?:ing)?|launch(?:ing)?|spawn(?:ing)?|come up|boot(?:ing)?)\b"

# fmt: off
ENDINGS: tuple[Phrase, ...] = (
    _p(Topic.ENDED, ("died", "rashed", "dead", "unexpectedly", "suddenly", "abruptly", "killed",
                     "abnormally", "prematurely", "silently", "no longer ", "has terminated:",
                     "ed with ", " because ", " due to ", "returned error", "returned an error"),
       rf"{_WHO}{_DEAD}.{{0,120}}", guard=_NOUN, at=Where.RECORD),
    # an end told as an error is no good one
    _p(Topic.ENDED, ("exited", "erminated", "stopped", "quit", "shut"),
       rf"{_WHO}{_BE}(?i:exited|terminated|stopped|quit|shut ?down)\.?\\{{0,4}}\"?"
       r"(?:\s*$|[,;:] | error=)",
       guard=_AN_ERROR, at=Where.RECORD),
    _p(Topic.ENDED, ("code", "status"),
       rf"{_WHO}{_LEFT}", guard=rf"{_ENDED}|finished", at=Where.RECORD),
    _p(Topic.ENDED, " exit code ",
       rf"{_WHO}(?:crash|exit|failure)(?: \d{{1,4}})?(?:,|:| -)? (?:with )?{_CODE}{_STATUS}",
       at=Where.RECORD),
    _p(Topic.ENDED, "CalledProcessError: ",
       rf"Command .{{0,200}}?\b{_COMMAND}\b.{{0,600}}", at=Where.ERROR),
    _p(Topic.ENDED, ("exited with", "exited ("),
       rf"{_CONTAINER}(?:has )?exited \(?(?:with )?{_CODE}{_STATUS}", at=Where.START),
    _p(Topic.START, ("to start", "to launch", "to spawn", "to come up", "to boot"),
       rf"{_WHO}(?:(?:has|have|had) )?(?:failed|unable|not able) to {_TO_START}"
       r".{0,160}", guard=_NOUN, at=Where.ERROR),
    _p(Topic.START, ("start", "launch", "spawn", "boot"),
       rf"(?:(?:[Ff]ailed|[Uu]nable|[Nn]ot able) to|(?:[Cc]an ?not|[Cc]ould ?n[o']t|[Cc]an't)"
       rf"|[Ee]rror(?: while| when)?) {_TO_START} (?P<who>{_NAME}{{0,5}}?{_NOUN})"
       r"(?=[\s:.,;'\"]|$).{0,160}",
       at=Where.ERROR),
    _p(Topic.START, "ailed to ", rf"[Ff]ailed to {_TO_START}: .{{0,160}}", at=Where.ERROR),
    _p(Topic.START, ("Application startup failed", "Error loading ASGI app"),
       r"(?:Application startup failed\. Exiting|Error loading ASGI app\. )", at=Where.ERROR),
    _p(Topic.START, ("attempting to bind on", ": bind: "),  # another has its port
       r"(?:\[Errno \d{1,4}\] error while attempting to bind on address"
       r"|listen \w{2,6} \S{1,80}: bind: )"
       r".{0,120}", at=Where.ERROR),
    _p(Topic.START, "xiting due to ",
       r"(?:[\w.()]{1,40}: )?[Ee]xiting due to (?:an? |the )?(?:[\w\-]{1,40} ){0,4}(?:error"
       r"|failure|exception)\b",
       at=Where.RECORD),
    _p(Topic.START, "Backend worker startup time",
       r"Backend worker startup time ?out", at=Where.ERROR),
    _p(Topic.START, "HaltServer", r"(?:HaltServer: )?<HaltServer '.{1,80}", at=Where.ERROR),
    _p(Topic.START, "dependency failed to start",
       r"dependency failed to start: container \S{1,120} exited \((?P<status>[1-9]\d{0,2})\)",
       at=Where.START),
    # a command line that a program did not take: Python's, click's, Rust's and C's words
    _p(Topic.START, ": error: ",
       r"[\w./\-]{1,80}(?: [\w\-]{1,40}){0,3}: error: (?:unrecognized arguments: "
       r"|the following arguments are required: |argument \S{1,80}: |ambiguous option: ).{0,160}",
       at=Where.START),
    _p(Topic.START, ("No such option", "Got unexpected extra", "Invalid value for"),
       r"Error: (?:No such option|Got unexpected extra argument|Invalid value for).{0,160}",
       at=Where.START),
    _p(Topic.START, ("unexpected argument", "invalid value", "unknown argument",
                     "invalid argument: "),
       r"error: (?:unexpected argument '[^']{1,80}' found|invalid value '[^']{0,80}' for '"
       r"|(?:unknown|invalid) argument: ).{0,160}", at=Where.START),
    _p(Topic.START, " option '",
       r"[\w./\-]{1,80}: (?:unrecognized|invalid|unknown) option '[^']{1,80}'", at=Where.START),
    _p(Topic.START, "not found (required by ",  # the loader's word to the program itself
       r"(\S{1,200}): \S{1,200}: version .GLIBC\w{0,8}_[\d.]{1,12}. not found \(required by \1\)",
       at=Where.START),
    _p(Topic.START, "ORTE was unable to ", r"ORTE was unable to reliably start .{0,80}",
       at=Where.START),
    _p(Topic.START, "at Module._",  # Node's, of what ended a program while it was read
       r"at Module\._\S{4,40} \((?:node:)?internal/modules/cjs/loader(?:\.js)?:\d{1,5}",
       at=Where.START),
    # a shell that was to become the program
    _p(Topic.START, "exec: ",
       r"\S{1,200}: (?:line )?\d{1,6}: exec: \S{1,200}: (?:not found|cannot execute"
       r"|[Pp]ermission denied|No such file)", at=Where.START),
    _p(Topic.START, "OCI runtime ", r"OCI runtime (?:create|start) failed: .{0,200}",
       at=Where.RECORD),
    _p(Topic.START, "Cannot ",  # compose's
       r"(?:ERROR: )?for \S{1,120} {1,4}Cannot (?:start|create) .{1,200}", at=Where.START),
    _p(Topic.START, "docker: Error response ",
       r"docker: Error response from daemon: .{1,200}", at=Where.START),
    _p(Topic.START, ("constructor failed ", "failed to start "),  # Ray Serve's
       r"(?:Deployment \S{1,120} is UNHEALTHY: )?The [Dd]eployment "
       r"(?:constructor failed|failed to start) \d{1,3} times.{0,80}", at=Where.ERROR),
    _p(Topic.ENDED, ("rashed container", "rashed pod", "ailed pod", "ailed container"),
       r"(?:Crashed|Failed) (?:container|pod)s? (?:in|:|\d|[\w.\-]{0,60}\d).{0,120}",
       at=Where.ERROR),
    _p(Topic.ENDED, ("Failed", "Crashed", "CannotStart", "Died"),  # as Rust prints an error's name
       r"(?P<who>[A-Z]\w{0,30}?(?:[Ss]erver|Shard|Worker|Engine|Process|Router|Launcher))"
       r"(?:Failed|Crashed|CannotStart|Died)\s*$", at=Where.ERROR),
    _p(Topic.ENDED, "Error: ",  # what `main` returned, likewise
       r"Error: [A-Z]\w{1,40}\((?:[A-Z]\w{1,40}[({]|\").{0,160}", at=Where.START),
    _p(Topic.ENDED, "Error: ", r"Error: (?:[A-Z][a-z]{1,30}){2,6}\s*$", at=Where.START),
    _p(Topic.ENDED, "thread 'main' ",  # another thread's panic ends only that thread
       r"thread 'main' (?:\(\d{1,9}\) )?panicked at .{0,160}", at=Where.START),
    _p(Topic.ENDED, "panic: ",  # as Go ends
       r"panic: (?!.{0,300}\[recovered\]$).{1,200}", at=Where.START),
    # Hydra says so of the program that it ran
    _p(Topic.ENDED, "with overrides: ", r"Error executing job with overrides: ", at=Where.START),
    # a language's runtime prints registers when a signal ends it
    _p(Topic.SIGNAL, ("rip ", "rflags ", "fault "),
       r"(?:rip|rflags|fault)\s{1,8}0x[0-9a-f]{1,16}\s*$", at=Where.START),
    # Go prints where each of its stacks lies only then
    _p(Topic.SIGNAL, " fp=0x",
       r"\S{1,300}\.(?:go|s):\d{1,6} \+0x[0-9a-f]{1,8} fp=0x[0-9a-f]{1,16} sp=0x"),
    # containers
    _p(Topic.ENDED, "Exit Code:", r"Exit Code:\s{1,20}(?P<status>[1-9]\d{0,2})\b", at=Where.START),
    _p(Topic.ENDED, "Last State: ",
       r"(?=(?:Name|(?:Init )?Containers|Container ID|Status|State|Last State): )"  # on one line
       r".{0,900}?Last State: {1,8}Terminated .{0,200}?Exit Code: {1,8}(?P<status>[1-9]\d{0,2})\b",
       at=Where.START),
    _p(Topic.ENDED, "ExitCode", r"\"?(?:State)?ExitCode\"?:? {0,8}(?P<status>[1-9]\d{0,2})\b",
       at=Where.START),
    _p(Topic.ENDED, "exitCode=",
       r"(?:\S{1,80} ){0,4}?(?:container )?die .{0,400}exitCode=(?P<status>[1-9]\d{0,2})\b",
       at=Where.START),
    _p(Topic.ENDED, ("Exited (", "Restarting ("),
       # a row of columns, which a sentence is not
       r"\S{1,200}(?:\s{2,9}|\t)\s{0,200}(?:\S{1,200}\s+){0,11}?"
       r"(?:Exited|Restarting) \((?P<status>[1-9]\d{0,2})\) (?:\d|About|Less)",
       at=Where.START),
    _p(Topic.ENDED, ("Error ", "CannotRun "), r"[a-z0-9][\w.\-]{1,120}\s+0/\d{1,2}\s+(?:Init:)?"
       r"(?:Error|RunContainerError|CreateContainerError|StartError|ContainerCannotRun)\s+\d",
       at=Where.START),
    _p(Topic.ENDED, ("ContainerCannotRun", "StartError", "BackoffLimitExceeded"),
       r"(?:Reason:\s{1,20}(?:ContainerCannotRun|StartError)\b"
       r"|(?:Warning\s{1,8})?BackoffLimitExceeded\b)",
       at=Where.START),
    # a machine's services
    _p(Topic.ENDED, ("repeated too quickly", "restart counter is at"),
       r"\S{1,120}: (?:Start request repeated too quickly"
       r"|Scheduled restart job, restart counter is at [1-9])", at=Where.START),
    _p(Topic.ENDED, "code=exited, status=",
       r"(?P<who>.{0,400}[\s(])?code=exited, status=(?P<status>[1-9]\d{0,2})\b", at=Where.START),
    # other supervisors
    _p(Topic.ENDED, "exited: ",
       r"exited: \S{1,120} \(exit status (?P<status>[1-9]\d{0,2}); not expected\)",
       at=Where.START),
    _p(Topic.ENDED, "entered FATAL state", r"gave up: \S{1,120} entered FATAL state",
       at=Where.START),
    _p(Topic.ENDED, "Exited with exit code",
       r"(?:srun: )?error: \S{1,120}: tasks? [\d,\-]{1,80}: Exited with exit code "
       r"(?P<status>[1-9]\d{0,2})", at=Where.START),
    _p(Topic.ENDED, ("estarting ", "espawning ", "elaunching "),
       rf"(?i:restarting|respawning|relaunching) (?:the )?(?:failed|crashed|dead) "
       rf"(?P<who>{_NAME}{{0,3}}?{_NOUN}).{{0,120}}", at=Where.START),
    _p(Topic.ENDED, "Retry worker: ", r"Retry worker: \d{1,8} in \d{1,6} seconds", at=Where.START),
    # whose neighbour hung up
    _p(Topic.ENDED, ("EOF", "connection reset"),
       r"(?:\w{2,8} predict: )?(?:Post|Get) \\{0,4}\"http://127\.0\.0\.1:\d{1,5}/(?:completion"
       r"|health|load|embedding)"
       r"\\{0,4}\": (?:EOF|.{0,120}connection reset by peer)", at=Where.ERROR),
    _p(Topic.ENDED, "reading llm response: ", r"error reading llm response: unexpected EOF",
       at=Where.ERROR),
    _p(Topic.ENDED, "error reading from server: EOF",
       r"(?:failed to load model with internal loader: )?could not load model: rpc error: "
       r"code = Unavailable desc = error reading from server: EOF", at=Where.ERROR),
    _p(Topic.ENDED, "WORKER TIMEOUT", r"WORKER TIMEOUT \(pid: ?\d{1,8}\)", at=Where.START),
    # PyTorch's launcher
    _p(Topic.ENDED, "(exitcode: ",
       r"failed \(exitcode: (?P<status>-?[1-9]\d{0,2})\) local_rank.{0,160}", at=Where.START),
    _p(Topic.ENDED, ":sigkill_handler] ",  # DeepSpeed's
       r"\[ERROR\] \[launch\.py:\d{1,5}:sigkill_handler\] (?:[^\]]{1,4000}\] exits with return "
       r"code = (?P<status>-?[1-9]\d{0,2}))?", at=Where.START),
    _p(Topic.ENDED, "exitcode ", r"exitcode {1,3}: (?P<status>-?[1-9]\d{0,2}) {1,3}\(pid: .{0,40}",
       at=Where.START),
    _p(Topic.ENDED, "ChildFailedError", r"(?:raise )?(?:[\w.]{1,80}\.)?ChildFailedError\b.{0,80}",
       at=Where.START),
    _p(Topic.ENDED, "torchelastic.",
       r"(?:\{\"name\": \")?torchelastic\.worker\.status\.FAILED", at=Where.START),
)
# fmt: on
