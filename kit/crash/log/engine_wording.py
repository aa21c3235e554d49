"""The words of vLLM (V0 and V1), Ray, NCCL, CUDA and PyTorch, and of servers like vLLM; see
`phrases`.
"""

from __future__ import annotations

from kit.crash.log.phrases import Phrase, Subject, Topic, Where
from kit.crash.log.phrases import phrase as _p

_E = Subject.ENGINE
#: Errors that end the process that raised them, when an engine's own loop logs them.
_RAISED = (
    r"(?:[A-Za-z_][\w]{0,60}\.){0,6}[A-Z]\w{0,60}(?:Error|Exception)(?:: .{0,200}|\(.{0,200}|$)"
)
#: The modules of vLLM that log an exception only when it ends the engine.
_LOOPS = (
    r"(?:[\w\-]{1,40}/){0,6}(?:core|multiproc_executor|async_llm|async_llm_engine|core_client"
    r"|engine"
    r"|ray_utils|worker_base|multiproc_worker_utils)\.py:\d{1,5}"
)
#: Functions that run as long as an engine does: an exception that was traced through one ended it.
_ENDED_IN = (
    r"(?:run_busy_loop|run_engine_core|_process_engine_step|worker_busy_loop|_wait_for_response"
    r"|get_response|run_mp_engine|run_engine_loop|_log_task_completion|_raise_exception_on_finish"
    r"|_run_engine)"
)
#: Functions that run while an engine comes up, likewise.
_STARTS_IN = (
    r"(?:make_async_mp_client|make_client|launch_core_engines|wait_for_engine_startup"
    r"|build_async_engine_client_from_engine_args)"
)
_FRAME = r"File \"[^\"]{1,300}[/\\]vllm[/\\][^\"]{1,120}\", line \d{1,6}, "

# fmt: off
ENGINE_WORDING: tuple[Phrase, ...] = (
    # vLLM
    _p(Topic.ENGINE, "DeadError",
       r"(?:message: |Error generating stream: )?(?:raise )?(?:[\w.]{1,120}\.)?"
       r"(?:Async|MQ)?EngineDeadError\b.{0,120}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "EngineCore",
       r"EngineCore (?:encountered (?:a fatal error|an issue)|hit an exception"
       r"|died|crashed|has died|is dead|process died).{0,80}", at=Where.ERROR, of=_E),
    _p(Topic.START, "EngineCore",
       r"EngineCore\w{0,20} failed to start.{0,80}", at=Where.ERROR, of=_E),
    _p(Topic.START, "ngine core initialization failed",
       r"(?:[\w.]{1,60}: )?Engine core initialization failed\."
       r"(?:[^{]{0,80}\{'\w{1,40}': (?P<status>-?\d{1,3}))?.{0,80}", at=Where.ERROR, of=_E),
    _p(Topic.START, "failed to start",
       r"(?:WorkerProc|Engine process|RPC Server|API server|DP [Cc]oordinator(?: process)?"
       r"|Executor|Engine|Worker(?: process)?) (?:\S{1,60} )?failed to start.{0,160}",
       at=Where.ERROR, of=_E),
    _p(Topic.START, "initialization failed due",
       r"WorkerProc initialization failed due to an exception.{0,160}", at=Where.ERROR, of=_E),
    _p(Topic.START, "finding module specification",
       r"(?:\S{1,200}: )?Error while finding module specification for .{1,200}", at=Where.START,
       of=_E),
    _p(Topic.START, "during initialization",
       r"(?:Engine|Worker|EngineCore)\b.{0,60}(?:died|failed|exited) during initialization.{0,80"
       r"}", at=Where.ERROR, of=_E),
    _p(Topic.START, 'File "',
       rf"{_FRAME}in {_STARTS_IN}$", guard=_STARTS_IN, at=Where.START, of=_E),
    _p(Topic.START, ("on startup is less than", "No available memory for the cache blocks",
                     "maximum number of tokens that can be stored in KV cache"),
       r"(?:Free memory on device .{1,120} on startup is less than"
       r"|No available memory for the cache blocks"
       r"|The model's max seq len .{1,120} tokens that can be stored in KV cache).{0,120}",
       at=Where.ERROR, of=_E),
    _p(Topic.START, "readiness probe",
       r"(?:rpc_process|RPCServer process|Engine process|process) died before responding to read"
       r"iness probe", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "ngine process (pid",
       r"Engine process \(pid \d{1,8}\) died.{0,40}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "Heartbeat failed",
       r"(?:Engine )?[Hh]eartbeat failed for .{0,80}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "already dead",
       r"(?:MQLLMEngine|AsyncLLMEngine|AsyncLLM|\w{0,20}Engine\w{0,10}) is already dead.{0,80}",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "terminating server",
       r"(?:\w{0,24}(?:Engine|LLM)\w{0,10}) (?:has failed|failed"
       r"|is dead), terminating server process", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "output_handler failed",
       r"AsyncLLM output_handler failed\.?", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "Engine loop is",
       r"(?:The )?[Ee]ngine loop (?:is not running|has died|is dead).{0,120}",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "died unexpectedly",
       r"(?:Engine core proc|Worker proc|API [Ss]erver(?: process)?|Process|DP Coordinator"
       r"|Scheduler|Engine core|\w{0,20}Worker(?:Proc|Wrapper)?)"
       r" (?:\S{1,60} )?(?:\(.{1,60}\) )?died unexpectedly.{0,60}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "died with exit code",
       r"Process \S{1,60} \(PID:? ?\d{1,8}\) died with exit code (?P<status>-?\d{1,3})",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, " died, exit code",
       r"Worker \S{1,60} pid \d{1,8} died, exit code: (?P<status>-?\d{1,3})",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "orker failed with error",
       r"Worker failed with error .{0,200}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "Executor failed.",  # TensorRT-LLM's goes on, and is told to one request
       r"Executor failed\.(?:\s|$|')", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "RPC call to",
       r"RPC call to \w{1,60} timed out.{0,40}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "hit an exception",
       r"(?:WorkerProc|Scheduler|Detokenizer\w{0,20}|\w{0,20}(?:Worker|Controller)\w{0,20}"
       r"|Rank \d{1,3} scheduler) hit an exception.{0,120}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "orker died",
       r"(?:A )?[Ww]orker died or was killed(?: while executing .{0,80}|\s*$)",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, ("ngine loop failed", "ngine main loop ", "EngineMainLoop"),  # LMDeploy's
       r"(?:Task <)?Engine ?[Mm]?(?:ain )?[Ll]?(?:oop|ainLoop>) (?:failed|stopped|died|crashed)"
       r".{0,120}",
       at=Where.ERROR, of=_E),
    _p(Topic.START, "nitialization failed. ",
       r"Initialization failed\. (?:warmup error|Please see).{0,120}", at=Where.ERROR, of=_E),
    _p(Topic.START, "initialize executor",
       r"Failed to initialize executor\b.{0,120}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "not registered within the timeout",
       r"Some workers of the worker process ?\(\d{1,8}\) have not registered within the timeout\. "
       r"The process is dead.{0,80}", at=Where.START, of=_E),
    _p(Topic.ENGINE, "StackTrace Information",  # Ray's, of a check that failed
       r"\*{3} StackTrace Information \*{3}", at=Where.START, of=_E),
    _p(Topic.ENGINE, (".run_mp_engine: ", ".run_engine_core: ", ".worker_busy_loop: "),  # Dynamo's
       r"(?:engine|core|multiproc_executor)\."
       r"(?:run_mp_engine|run_engine_core|worker_busy_loop): .*",
       guard=r"\bERROR\b", at=Where.START, of=_E),
    _p(Topic.ENGINE, "Engine background task", r"Engine background task failed",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "Background loop",
       r"Background loop (?:has errored already|is stopped|is not running)", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "Engine iteration timed out",
       r"Engine iteration timed out\. This should never happen!", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "Exception in callback",
       r"(?:ERROR:asyncio:)?Exception in callback .{0,60}<function _(?:raise_exception_on_finish"
       r"|log_task_completion)\b.{0,80}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "error trying to connect",
       r"(?:Request failed during generation: )?Server error: error trying to connect: "
       r"(?:No such file or directory|Connection refused).{0,40}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "unhealthy vLLM", r"Model is unavailable due to unhealthy vLLM engine",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "Engine is not healthy",
       r"(?:VLLM |vLLM )?Engine is not healthy and model will be unloaded", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, ".py:",
       rf"(?:\[?{_LOOPS}(?:\]|\[\]|\[|:)?(?:\]|:)?)\s+{_RAISED}", guard="Error|Exception",
       at=Where.START, of=_E),
    _p(Topic.ENGINE, (".py:", "Traceback (most"),
       rf"\[?{_LOOPS}(?:\]|\[\]|\[|:)?(?:\]|:)?\s+(?:File \".{{1,300}}, line \d|Traceback \(most)",
       guard=r"\b(?:ERROR|CRITICAL)\b", at=Where.START, of=_E),
    _p(Topic.CONTINUES, "Invocation of ",
       rf"\[?{_LOOPS}\]?\s+Invocation of \w{{1,60}} method failed", at=Where.START, fatal=False),
    _p(Topic.EXIT, "[rank",
       r"\[rank\d{1,5}\]:\s{0,20}(?:[\w.]{1,120}(?:Error|Exception)\b|Traceback \(most"
       r"|File \".{1,300}, line \d).{0,160}", at=Where.START),
    _p(Topic.ENGINE, 'File "', rf"{_FRAME}in {_ENDED_IN}$", guard=_ENDED_IN, at=Where.START, of=_E),
    _p(Topic.ENGINE, 'File "',  # these processes of SGLang catch nothing and go on
       r"File \"[^\"]{1,300}[/\\]sglang[/\\][^\"]{1,120}\", line \d{1,6}, in "
       r"run_(?:scheduler|detokenizer|data_parallel_controller)_process$",
       guard="run_", at=Where.START, of=_E),
    _p(Topic.ENGINE, "Process ",
       r"Process (?:EngineCore|VllmWorker|SpawnProcess|Worker|Engine|ApiServer"
       r"|APIServer)[\w\-]{0,20}:\s*$", at=Where.START, of=_E),
    _p(Topic.ENGINE, "got fatal signal",
       r"\w{0,30}Executor got fatal signal from worker process.{0,100}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "scheduler is dead",
       r"Rank \d{1,4} scheduler is dead(?:.{0,80}?[Ee]xit code: (?P<status>-?\d{1,3}))?.{0,80}",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "Watchdog timeout (self.",  # SGLang's ends its own process
       r"Watchdog timeout \(self\.watchdog_timeout=.{0,40}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "sigquit",
       r"Received sigquit from a child process?.{0,80}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "was signaled to shutdown",
       r"(?:Shard|Download|Convert|\w{1,20}) process was signaled to shutdown with signal "
       r"(?P<signal>\d{1,2})", at=Where.ERROR, of=_E),
    # Ray
    _p(Topic.OUT_OF_MEMORY, "due to memory pressure",
       r"[1-9]\d{0,4} Workers \(tasks / actors\) killed due to memory pressure \(OOM\)", of=_E),
    _p(Topic.ENGINE, "crashed due to other",
       r"\b[1-9]\d{0,4} Workers crashed due to other reasons", of=_E),
    _p(Topic.OUT_OF_MEMORY, "to free up memory",
       r"(?:\[0\] )?Killing worker .{0,80}to free up memory", at=Where.START, of=_E),
    _p(Topic.OUT_OF_MEMORY, "running low on memory",
       r"(?:[Tt]ask|[Ww]orker|[Aa]ctor|[Ww]orkers)\b.{0,120}killed due to the node running low o"
       r"n memory", of=_E),
    _p(Topic.OUT_OF_MEMORY, "Ray killed this worker",
       r"Memory on the node .{1,500} exceeds the memory usage threshold.{0,40}Ray killed this work"
       r"er", at=Where.ERROR, of=_E),
    _p(Topic.OUT_OF_MEMORY, "ray.exceptions.OutOf",
       r"ray\.exceptions\.OutOfMemoryError: .{0,80}", of=_E),
    _p(Topic.OUT_OF_MEMORY, "NODE_OUT_OF_MEMORY",
       r"[Ww]orker exit type: NODE_OUT_OF_MEMORY", of=_E),
    _p(Topic.ENGINE, "orker exit type: ",
       r"[Ww]orker exit type: (?:SYSTEM_ERROR|WORKER_DIED).{0,200}", of=_E),
    _p(Topic.ENGINE, "ActorDiedError",
       r"(?:ray\.exceptions\.)?(?:RayActorError|ActorDiedError|WorkerCrashedError"
       r"|LocalRayletDiedError|NodeDiedError|ActorUnavailableError)\b.{0,120}",
       at=Where.START, of=_E),
    _p(Topic.ENGINE, "ray.exceptions.",
       r"ray\.exceptions\.(?:RayActorError|ActorDiedError|WorkerCrashedError"
       r"|LocalRayletDiedError|NodeDiedError|ActorUnavailableError)\b.{0,120}",
       at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "actor died",
       r"[Tt]he actor died (?:unexpectedly|because of an error).{0,120}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "actor is dead",
       r"[Tt]he actor is dead because .{0,160}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "aylet is terminated", r"Raylet is terminated.{0,80}", at=Where.ERROR, of=_E),
    _p(Topic.ENGINE, "missed too many heartbeats",
       r"(?:.{0,120} )?missed too many heartbeats.{0,60}", at=Where.START, of=_E),
    # NCCL and PyTorch
    _p(Topic.NCCL, "taking the entire process down",
       r"(?:To avoid data inconsistency, )?we are taking the entire process down"),
    _p(Topic.NCCL, "Some NCCL operations", r"Some NCCL operations have failed or timed out"),
    _p(Topic.NCCL, "will be terminated",
       r"Heartbeat monitor timed out! Process will be terminated"),
    _p(Topic.NCCL, "watchdog got stuck",
       r"ProcessGroupNCCL's watchdog got stuck for \d{1,6} seconds"),
    _p(Topic.NCCL, "watchdog thread terminated",
       r"(?:NCCL|Process group) watchdog thread terminated with exception.{0,200}"),
    _p(Topic.NCCL, "Terminating the process",
       r"[Tt]erminating the process after attempting to dump debug info"),
    _p(Topic.NCCL, "NCCL",
       r"NCCL (?:error|WARN Cuda failure|operation failed).{0,160}", fatal=False),
    _p(Topic.NCCL, "nccl",
       r"nccl(?:UnhandledCuda|System|Internal|Remote)Error.{0,160}", fatal=False),
    _p(Topic.NCCL, "Watchdog caught",
       r"Watchdog caught collective operation timeout.{0,160}"),
    _p(Topic.NCCL, "detected by watchdog",
       r"failure detected by watchdog at work sequence id: .{0,120}"),
    _p(Topic.NCCL, "ncclCommWatchdog",
       r"(?:Exception raised from ncclCommWatchdog|frame #\d{1,3}: "
       r"c10d::ProcessGroupNCCL::ncclCommWatchdog\(\)).{0,80}", at=Where.START),
    _p(Topic.EXIT, "terminated with signal",
       r"process \d{1,4} terminated with signal (?P<signal>SIG[A-Z]{2,6})", at=Where.ERROR),
    # CUDA, and ROCm, whose runtime aborts
    _p(Topic.EXCEPTION, "by GPU node-",
       r"(?:Memory access fault|HW Exception) by GPU node-\d{1,4} \(Agent handle: "
       r".{0,160}", at=Where.PRINTED, signal=6),
    _p(Topic.CUDA, "by GPU node-", r"(?:Memory access fault|HW Exception) by GPU node-.{0,160}",
       fatal=False),
    _p(Topic.GPU_MEMORY, "ut of memory",
       r"(?:CUDA|HIP|ROCm|GPU)(?: driver| runtime)? ?(?:error:? )?(?:ran )?out of memory.{0,160}",
       fatal=False),
    _p(Topic.GPU_MEMORY, "ut of memory",
       r"cudaError(?:MemoryAllocation|OutOfMemory)?.{0,80}out of memory|OutOfMemory"
       r"(?:Error)?: CUDA out of memory.{0,160}", fatal=False),
    _p(Topic.GPU_MEMORY, "OutOfMemoryError",
       r"torch\.(?:cuda\.)?OutOfMemoryError.{0,160}", fatal=False),
    _p(Topic.GPU_MEMORY, "cudaErrorMemoryAllocation",
       r"cudaErrorMemoryAllocation.{0,80}", fatal=False),
    _p(Topic.CUDA, "illegal memory access",
       r"illegal memory access was encountered.{0,80}", fatal=False),
    _p(Topic.CUDA, "device-side assert", r"device-side assert triggered.{0,80}", fatal=False),
    _p(Topic.CUDA, "CUDA error: ",
       r"CUDA error: (?!out of memory|no kernel image|invalid device ordinal).{1,160}",
       fatal=False),
    _p(Topic.CUDA, "CUDA runtime error",
       r"CUDA runtime error in .{0,200}?: (?!.{0,120}out of memory).{1,120}", fatal=False),
    _p(Topic.CUDA, "cudaError",
       r"cudaError(?:IllegalAddress|LaunchFailure|Assert|ECC\w{0,20}|MisalignedAddress"
       r"|IllegalInstruction).{0,80}", fatal=False),
    _p(Topic.CUDA, "CUDA_ERROR_",
       r"CUDA_ERROR_(?:ILLEGAL_ADDRESS|LAUNCH_FAILED|ASSERT|MISALIGNED_ADDRESS"
       r"|ILLEGAL_INSTRUCTION|ECC_UNCORRECTABLE|CONTEXT_IS_DESTROYED).{0,80}", fatal=False),
    _p(Topic.CUDA, "unspecified launch failure", r"unspecified launch failure.{0,80}", fatal=False),
    _p(Topic.CUDA, "misaligned address", r"misaligned address.{0,80}", fatal=False),
    _p(Topic.CUDA, "Xid (", r"NVRM: Xid \(.{0,160}", fatal=False),
    _p(Topic.CUDA, "fallen off the bus", r"GPU has fallen off the bus.{0,80}", fatal=False),
    _p(Topic.CONTINUES, "continuing", r"(?:failed|error), continuing", fatal=False),
    # what only waits
    _p(Topic.HANG, "shared memory broadcast block",
       r"No available (?:shared memory broadcast )?block found in \d{1,6}"
       r"(?:\.\d{1,3})? seconds?.{0,60}", fatal=False),
    _p(Topic.HANG, "shared memory broadcast block",
       r"No available shared memory broadcast block found.{0,80}", fatal=False),
    _p(Topic.HANG, "long time to execute",
       r"(?:.{0,120})taking a long time to execute.{0,120}", at=Where.START, fatal=False),
    _p(Topic.HANG, "Waiting for",
       r"Waiting for (?:\d{1,5} local, \d{1,5} remote core engine proc|output from MQLLMEngine"
       r"|all engine|.{0,60}core engine).{0,80}", at=Where.START, fatal=False),
)
# fmt: on
