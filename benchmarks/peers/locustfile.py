"""locust's fast user in a closed loop: whole answers, or the lines of a stream with their times."""

import json
import os
import time

from locust import FastHttpUser, constant, task

TOKENS = int(os.environ["TOKENS"])
STREAM = os.environ["STREAM"] == "1"
CHAT = {
    "model": "m",
    "messages": [{"role": "user", "content": "[n:01234567] Tell me in a few plain words"}],
    "max_tokens": TOKENS,
    "stream": True,
}
PLAIN = {
    "text_input": "[n:01234567] Tell me in a few plain words",
    "stream": False,
    "sampling_parameters": json.dumps({"max_tokens": TOKENS}),
}
BODY = json.dumps(CHAT if STREAM else PLAIN).encode()
HEADERS = {"Content-Type": "application/json"}


class Client(FastHttpUser):
    wait_time = constant(0)

    @task
    def request(self) -> None:
        if not STREAM:
            self.client.post("/v2/models/m/generate", data=BODY, headers=HEADERS)
            return
        lines = self.client.iter_lines(
            "/v1/chat/completions", method="POST", data=BODY, headers=HEADERS
        )
        self.times = [time.perf_counter() for line in lines if line.startswith("data: ")]
