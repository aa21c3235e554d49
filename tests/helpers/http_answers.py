"""Whole answers of HTTP servers, in every way in which their end may be told."""

from __future__ import annotations

from scripted_server import chunk

BODY = b'{"model_name":"m","text_output":"a b \xc3\xa9 c"}'
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = b"".join(chunk(BODY[i : i + 7]) for i in range(0, len(BODY), 7)) + chunk(b"")
VALID = {
    "length": HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "extensions and trailers": HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"%x;name=value\r\n%s\r\n0\r\nX-After: 1\r\n\r\n" % (len(BODY), BODY),
    "until the end": HEAD + b"Connection: close\r\n\r\n" + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nboom",
    "nothing": b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    "empty": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "no reason": b"HTTP/1.1 200\r\ncontent-length:   3  \r\nX-Empty:\r\n\r\nabc",
}
