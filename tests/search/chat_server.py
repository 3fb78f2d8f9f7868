"""A local server that speaks the chat completions protocol, and says what a test has prepared."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server says to one request.

    Attributes:
        content: The message; None with a refusal.
        refusal: Why the model refuses.
        status: HTTP status; above 299 the content is the error's message.
        body: Sent in place of a chat completion.
        wait: Seconds before anything is said.
    """

    content: str | None = None
    refusal: str | None = None
    status: int = 200
    body: str | None = None
    wait: float = 0.0


@dataclass
class ChatServer:
    """A running server.

    Attributes:
        endpoint: Its address.
        reply: Makes a reply of a request's body.
        asked: Bodies of all requests, in order.
        keys: What each request was authorised with.
    """

    endpoint: str
    reply: Callable[[dict[str, Any]], Reply]
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@contextmanager
def chat_server(reply: Callable[[dict[str, Any]], Reply]) -> Iterator[ChatServer]:
    """Serve on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            running.asked.append({**asked, "path": self.path})
            running.keys.append(self.headers.get("Authorization", ""))
            found = running.reply(asked)
            time.sleep(found.wait)
            body = found.body
            if body is None and found.status > 299:
                body = json.dumps({"error": {"message": found.content, "type": "test"}})
            elif body is None:
                body = json.dumps(completion(asked["model"], found))
            raw = body.encode()
            try:
                self.send_response(found.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it waited too long for the client

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = ChatServer(f"http://127.0.0.1:{server.server_port}/v1", reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def completion(model: str, reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
