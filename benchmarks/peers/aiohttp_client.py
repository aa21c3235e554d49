"""aiohttp on uvloop in a closed loop: PORT CLIENTS SECONDS TOKENS STREAM.

As little as one would write by hand: read the answer, or stamp each line of a stream.
"""

import asyncio
import json
import sys
import time

import aiohttp
import uvloop

PORT, CLIENTS, SECONDS, TOKENS, STREAM = (int(word) for word in sys.argv[1:6])
PROMPT = "[n:01234567] Tell me in a few plain words"
CHAT = {
    "model": "m",
    "messages": [{"role": "user", "content": PROMPT}],
    "max_tokens": TOKENS,
    "stream": True,
}
PLAIN = {
    "text_input": PROMPT,
    "stream": False,
    "sampling_parameters": json.dumps({"max_tokens": TOKENS}),
}
BODY = json.dumps(CHAT if STREAM else PLAIN).encode()
PATH = "/v1/chat/completions" if STREAM else "/v2/models/m/generate"
HEADERS = {"Content-Type": "application/json"}


async def client(session: aiohttp.ClientSession, until: float) -> None:
    url = f"http://127.0.0.1:{PORT}{PATH}"
    while time.monotonic() < until:
        begun = time.perf_counter()
        async with session.post(url, data=BODY, headers=HEADERS) as answer:
            if STREAM:
                times = [begun]
                async for line in answer.content:
                    times += [time.perf_counter()] if line.startswith(b"data: ") else []
            else:
                await answer.read()


async def main() -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        until = time.monotonic() + SECONDS
        await asyncio.gather(*(client(session, until) for _ in range(CLIENTS)))


uvloop.run(main())
