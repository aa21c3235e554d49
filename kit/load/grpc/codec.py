"""Encodes calls as Triton's `ModelInfer` and `ModelStreamInfer`, and decodes responses.

The messages are `tritonclient.grpc`'s. What is the same in every request is encoded once: encoded
protobuf messages may be put one behind the other, so only the tensors' contents are added.
"""

from __future__ import annotations

import msgspec
import tritonclient.grpc  # noqa: F401 - makes the generated modules importable
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from kit.load.answers import Judgement
from kit.load.http.dialect import malformed, server_error
from kit.load.http.generate import sampling_parameters
from kit.load.traffic.call import Call
from kit.load.traffic.traffic import continuation
from kit.study.spec import FaultKind

STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
UNARY_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CONTENTS = pb.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
#: Layouts of messages that are kept, and how long one may be without its text.
_MESSAGES_KEPT = 1024
_BYTES_KEPT = 4096
#: Lengths of texts of which the way they are encoded is kept.
_FRONTS_KEPT = 65536
_CONTENTS_TAG = bytes([_CONTENTS << 3 | 2])  # a field of given length


class Piece(msgspec.Struct, frozen=True, gc=False):
    """What one response says."""

    text: str | None  # None: it carries no text
    final: bool | None  # None: the server does not say (before 23.06)


class MessageLayout:
    """Learns what responses of a length have around their text, to read later ones undecoded.

    Protobuf says how long each field is, so two messages of one length that are alike before and
    behind a text of one length differ in the text alone. A message without text is known whole.
    """

    def __init__(self) -> None:
        #: By length: what stands before and behind the text, where it ends, final or not.
        self._around: dict[int, tuple[bytes, bytes, int, bool | None]] = {}
        self._whole: dict[bytes, Piece] = {}

    def piece(self, data: bytes) -> Piece | None:
        """What a message says that is like a known one; None: it is like none."""
        around = self._around.get(len(data))
        if around is not None:
            before, after, end, final = around
            if data.startswith(before) and data.endswith(after):
                try:
                    return Piece(data[len(before) : end].decode(), final)
                except UnicodeDecodeError:
                    return None
        return self._whole.get(data)

    def is_answer(self, data: bytes, call: Call) -> bool:
        """A message is like a known one, with the text that is right for `call`."""
        around = self._around.get(len(data))
        if around is None:
            return False
        before, after, _, _ = around
        return data == b"".join(
            (before, call.text, continuation(call.digits, call.output_tokens), after)
        )

    def learn(self, data: bytes, piece: Piece) -> None:
        """Remember a message that was decoded."""
        if piece.text is None:
            if len(self._whole) < _MESSAGES_KEPT and len(data) < _BYTES_KEPT:
                self._whole[data] = piece
            return
        text = piece.text.encode()
        before, found, after = data.partition(_element(text))
        # An empty text, or one that stands there twice, does not tell where it stands.
        if text and found and text not in after and len(before) + len(after) < _BYTES_KEPT:
            if len(self._around) >= _MESSAGES_KEPT:
                self._around.clear()
            before += found[:4]
            self._around[len(data)] = before, after, len(before) + len(text), piece.final


class Infer:
    """Requests and responses of a model with the inputs of Triton's vLLM backend."""

    echoes = True

    def __init__(self, model: str, *, streams: bool, extra: dict[str, object]) -> None:
        self.streams = streams
        self.method = STREAM_METHOD if streams else UNARY_METHOD
        self._extra = extra
        self._head = _head(model, streams=streams, text_type="BYTES")
        self._wrong_head = _head(model, streams=streams, text_type="INT32")
        self._stream_field = _field(b"\1" if streams else b"\0")
        #: What stands before a text, by its length, and behind it, by the tokens asked for.
        self._fronts: dict[int, bytes] = {}
        self._tails: dict[int, bytes] = {}
        self._layout = MessageLayout()
        self.is_answer = self._layout.is_answer

    def request(self, call: Call) -> bytes:
        """The encoded message of a call."""
        text = call.text
        tail = self._tails.get(call.output_tokens)
        if tail is None:
            given = sampling_parameters(call.output_tokens, self._extra).encode()
            tail = self._stream_field + _field(_element(given))
            self._tails[call.output_tokens] = tail
        if call.fault is not None and call.fault.kind is FaultKind.BAD_JSON:
            tail = self._stream_field + _field(_element(b'{"max_tokens":'))
        elif call.fault is not None and call.fault.kind is FaultKind.WRONG_TYPE:
            return b"".join((self._wrong_head, _field(b"\1\0\0\0"), tail))
        front = self._fronts.get(len(text))
        if front is None:
            front = self._head + _field(_element(text)).removesuffix(text)
            if len(self._fronts) < _FRONTS_KEPT:
                self._fronts[len(text)] = front
        return b"".join((front, text, tail))

    def read(self, data: bytes) -> Piece | Judgement:
        """One encoded response."""
        known = self._layout.piece(data)
        if known is not None:
            return known
        try:
            if not self.streams:
                piece = _piece(pb.ModelInferResponse.FromString(data))
            else:
                response = pb.ModelStreamInferResponse.FromString(data)
                if response.error_message:
                    return server_error(response.error_message)
                piece = _piece(response.infer_response)
        except (DecodeError, UnicodeDecodeError) as error:
            return malformed(f"not a response of the infer protocol: {error}", data)
        if isinstance(piece, Piece):
            self._layout.learn(data, piece)
        return piece


def _piece(response: pb.ModelInferResponse) -> Piece | Judgement:
    final = None
    if "triton_final_response" in response.parameters:
        final = response.parameters["triton_final_response"].bool_param
    for output, contents in zip(response.outputs, response.raw_output_contents, strict=False):
        if output.name == "text_output":
            size = int.from_bytes(contents[:4], "little")
            if len(contents) < 4 + size:
                return malformed("a text that is shorter than it says", contents)
            try:
                return Piece(contents[4 : 4 + size].decode(), final)
            except UnicodeDecodeError as error:
                return malformed(f"a text that is not UTF-8: {error}", contents)
    return Piece(None, final)


def _head(model: str, *, streams: bool, text_type: str) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    for name, kind in (
        ("text_input", text_type),
        ("stream", "BOOL"),
        ("sampling_parameters", "BYTES"),
    ):
        request.inputs.add(name=name, datatype=kind, shape=[1])
    if streams:
        # Without it a final response that carries no text is invisible.
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    encoded: bytes = request.SerializeToString()
    return encoded


def _element(text: bytes) -> bytes:
    """One element of a BYTES tensor."""
    return len(text).to_bytes(4, "little") + text


def _field(contents: bytes) -> bytes:
    """One `raw_input_contents`, encoded."""
    size, length = len(contents), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return b"".join((_CONTENTS_TAG, length, contents))
