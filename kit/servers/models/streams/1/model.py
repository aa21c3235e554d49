"""Triton model that answers from a thread of its own, after execute() has returned.

So a request is freed while its answer still streams, as with any decoupled model that works on
several requests at once. The log says when each answer is about to get its final response.
"""

import threading
import time
import zlib

import numpy
import triton_python_backend_utils as pb_utils

#: Fewest and most tokens of an answer, which its id decides, and the time between two of them.
TOKENS = (4, 12)
PACE_S = 0.005


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            given = (request.request_id(), request.get_response_sender())
            threading.Thread(target=self._answer, args=given, daemon=True).start()

    def _answer(self, name, sender):
        for number in range(TOKENS[0] + zlib.crc32(name.encode()) % (TOKENS[1] - TOKENS[0] + 1)):
            time.sleep(PACE_S)
            text = numpy.array([str(number).encode()], dtype=object)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)]))
        pb_utils.Logger.log_info(f"final response of [{name}]")
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
