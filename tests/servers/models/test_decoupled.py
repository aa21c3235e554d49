"""The life of a request in a decoupled model, with a fake in place of Triton's side of the stub."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kit.servers import repository
from kit.study.paths import MODELS

FINAL = 1


class FakeSender:
    """Writes down who did what to it, in order."""

    def __init__(self, cancelled_after: int | None = None, broken: bool = False) -> None:
        self.events: list[tuple[str, Any, str]] = []
        self.over = threading.Event()
        self._cancelled_after = cancelled_after
        self._broken = broken

    def send(self, response: Any = None, flags: int = 0) -> None:
        if flags & FINAL:
            self.over.set()
        self.events.append(("final" if flags & FINAL else "sent", response, _thread()))
        if self._broken:
            raise RuntimeError("the response could not be sent")

    def is_cancelled(self) -> bool:
        self.events.append(("asked", None, _thread()))
        return self._cancelled_after is not None and self.asked() > self._cancelled_after

    def asked(self) -> int:
        return sum(kind == "asked" for kind, *_ in self.events)

    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.events]

    def texts(self) -> list[str]:
        return [r.text for _, r, _ in self.events if r is not None and r.error is None]


class FakeRequest:
    def __init__(self, sender: FakeSender, text: str, tokens: int, *, stream: bool = True) -> None:
        self._sender = sender
        self.inputs = {
            "text_input": np.array([text.encode()], dtype=object),
            "sampling_parameters": np.array([b'{"max_tokens": %d}' % tokens], dtype=object),
            "stream": np.array([stream]),
        }

    def get_response_sender(self) -> FakeSender:
        return self._sender

    def is_cancelled(self) -> bool:
        raise AssertionError("the sender is asked, not the request")


def _thread() -> str:
    return threading.current_thread().name


def fake_triton() -> ModuleType:
    """What the models use of triton_python_backend_utils."""

    class TritonError(SimpleNamespace):
        CANCELLED = 7

        def __init__(self, message: str, code: int = 0) -> None:
            super().__init__(message=message, code=code)

    def response(output_tensors: Any = (), error: Any = None) -> SimpleNamespace:
        text = output_tensors[0].as_numpy()[0].decode() if output_tensors else None
        return SimpleNamespace(text=text, error=error)

    def get_input(request: FakeRequest, name: str) -> Any:
        value = request.inputs.get(name)
        return None if value is None else SimpleNamespace(as_numpy=lambda: value)

    module = ModuleType("triton_python_backend_utils")
    module.__dict__.update(
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        InferenceRequest=FakeRequest,
        InferenceResponse=response,
        Logger=SimpleNamespace(log_error=lambda text: None),
        Tensor=lambda name, values: SimpleNamespace(as_numpy=lambda: values),
        TritonError=TritonError,
        TritonModelException=type("TritonModelException", (Exception,), {}),
        get_input_tensor_by_name=get_input,
    )
    return module


Start = Callable[..., Any]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a simulated model with some parameters changed; stopped at the end of the test."""
    before = set(sys.modules)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake_triton())
    monkeypatch.syspath_prepend(str(MODELS / "common"))
    monkeypatch.syspath_prepend(str(MODELS / "simulated" / "1"))
    running = []

    def make(**changes: str) -> Any:
        from model import TritonPythonModel  # the simulated one, by the path above

        template = (MODELS / "simulated" / "config.pbtxt").read_text()
        values = {
            line["name"]: line["default"] for line in repository._PARAMETER.finditer(template)
        }
        quiet = {"log_stats": "false", "export_metrics": "false", "decode_step_ms": "0.1"}
        parameters = {k: {"string_value": v} for k, v in {**values, **quiet, **changes}.items()}
        model = TritonPythonModel()
        config = json.dumps({"parameters": parameters})
        model.initialize({"model_config": config, "model_name": "m", "model_version": "1"})
        running.append(model)
        return model

    yield make
    for model in running:
        model.finalize()
    for name in set(sys.modules) - before:  # so that no other test meets modules with the fake
        if str(MODELS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def answered(model: Any, *senders: FakeSender, tokens: int = 6, stream: bool = True) -> None:
    model.execute(
        [FakeRequest(s, f"[n:{i:x}] p", tokens, stream=stream) for i, s in enumerate(senders)]
    )
    for sender in senders:
        assert sender.over.wait(20)


def settled(model: Any) -> None:
    """Until the event loop has done all that the last responses set off."""
    answered(model, FakeSender(), tokens=1)


@pytest.mark.slow
def test_the_control_asks_before_each_token_and_never_after_the_last(start: Start) -> None:
    model = start(cancel_check="coroutine")
    senders = [FakeSender() for _ in range(16)]
    answered(model, *senders)
    settled(model)
    for sender in senders:
        assert sender.asked() == 6
        assert sender.kinds()[-1] == "final"
        assert {thread for kind, _, thread in sender.events if kind == "asked"} == {"engine-loop"}


@pytest.mark.slow
def test_after_final_asks_once_and_too_late(start: Start) -> None:
    model = start(cancel_check="after-final")
    sender = FakeSender()
    answered(model, sender)
    settled(model)
    assert sender.kinds() == ["sent"] * 5 + ["final", "asked"]


@pytest.mark.slow
def test_without_a_check_nobody_asks(start: Start) -> None:
    model = start(cancel_check="none")
    sender = FakeSender()
    answered(model, sender)
    settled(model)
    assert sender.asked() == 0


@pytest.mark.slow
def test_the_watcher_asks_from_a_thread_of_its_own_while_the_answer_comes(start: Start) -> None:
    model = start(cancel_check="second-thread", cancel_poll_ms="0.1", decode_step_ms="5")
    sender = FakeSender()
    answered(model, sender, tokens=40)
    asking = {thread for kind, _, thread in sender.events if kind == "asked"}
    assert asking == {"cancel-watcher"}
    first, last = sender.kinds().index("asked"), sender.kinds().index("final")
    assert first < last


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "kinds"), [("end", ["final"]), ("go-on", ["sent"] + ["sent"] * 5 + ["final"])]
)
def test_every_so_many_th_answer_begins_with_an_error_and_ends_or_goes_on(
    start: Start, after: str, kinds: list[str]
) -> None:
    model = start(cancel_check="none", error_every="2", after_error=after)
    senders = [FakeSender() for _ in range(4)]
    answered(model, *senders)
    settled(model)
    for number, sender in enumerate(senders, 1):
        errors = [response.error for _, response, _ in sender.events if response.error]
        assert len(errors) == (number % 2 == 0)
        assert sender.kinds() == (["sent"] * 5 + ["final"] if number % 2 else kinds)
    assert model._engine.stats.running == 0


@pytest.mark.parametrize("mode", ["coroutine", "second-thread"])
def test_a_cancelled_request_ends_early_with_an_error(start: Start, mode: str) -> None:
    model = start(cancel_check=mode, cancel_poll_ms="0.1", decode_step_ms="5")
    sender = FakeSender(cancelled_after=3)
    answered(model, sender, tokens=500)
    response = next(response for kind, response, _ in sender.events if kind == "final")
    assert response.error.code == 7
    assert len(sender.texts()) < 500
    settled(model)
    assert model._engine.stats.running == 0
    assert model._engine.stats.kv_usage == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("final", "stream", "kinds"),
    [
        ("with-last", True, ["sent", "sent", "final"]),
        ("empty", True, ["sent", "sent", "sent", "final"]),
        ("with-last", False, ["final"]),
        ("empty", False, ["sent", "final"]),
    ],
)
def test_the_final_flag_comes_as_configured(
    start: Start, final: str, stream: bool, kinds: list[str]
) -> None:
    model = start(cancel_check="none", final=final)
    sender = FakeSender()
    answered(model, sender, tokens=3, stream=stream)
    assert sender.kinds() == kinds
    assert "".join(sender.texts()) == "[n:0] p 0:0 0:1 0:2"


@pytest.mark.slow
def test_one_response_that_cannot_be_sent_does_not_hold_up_the_others(start: Start) -> None:
    model = start()
    broken, whole = FakeSender(broken=True), FakeSender()
    answered(model, broken, whole, tokens=3)
    assert "".join(whole.texts()) == "[n:1] p 1:0 1:1 1:2"


@pytest.mark.slow
def test_a_request_that_cannot_be_read_is_refused(start: Start) -> None:
    model = start()
    sender = FakeSender()
    request = FakeRequest(sender, "x", 3)
    del request.inputs["text_input"]
    model.execute([request])
    assert sender.over.wait(20)
    assert "text_input is missing" in sender.events[0][1].error.message


def test_a_wrong_parameter_is_named(start: Start) -> None:
    with pytest.raises(ValueError, match="blocks = 'many'"):
        start(blocks="many")
    with pytest.raises(ValueError, match="final = 'maybe'"):
        start(final="maybe")


def test_finalize_leaves_no_thread(start: Start) -> None:
    before = set(threading.enumerate())
    model = start(cancel_check="second-thread", log_stats="true")
    answered(model, FakeSender())
    model.finalize()
    assert set(threading.enumerate()) <= before
    model.finalize = lambda: None  # done
