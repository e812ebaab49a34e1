"""A chat endpoint on this machine: answers as OpenAI's do, or fails in a chosen way."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Chat:
    """What the server does.

    Attributes:
        reply: From the user's message and the number of requests so far to a reply, a status code,
            or raw bytes.
        seen: The bodies of all requests.
    """

    def __init__(self, reply):
        self.reply = reply
        self.seen = []
        self.keys = set()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()


def good(message, number):
    """Two questions that keep the rules."""
    subject = message.split("\n")[0].removeprefix("subject: ")
    return json.dumps({"question": f"What about {subject}?", "rephrase": f"{subject} is what?"})


@contextmanager
def serving(reply=good):
    """`with serving() as (url, chat)`."""
    chat = Chat(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with chat.lock:
                chat.seen.append(body)
                chat.keys.add(self.headers.get("Authorization"))
                chat.busy += 1
                chat.most_busy = max(chat.most_busy, chat.busy)
                number = len(chat.seen)
            try:
                self.answer(chat.reply(body["messages"][-1]["content"], number))
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with chat.lock:
                    chat.busy -= 1

        def answer(self, reply):
            if isinstance(reply, float):
                time.sleep(reply)
                reply = "too late"
            status = reply if isinstance(reply, int) else 200
            content = reply if isinstance(reply, bytes) else None
            if isinstance(reply, str):
                content = json.dumps(
                    {
                        "id": "1", "object": "chat.completion", "created": 0, "model": "m",
                        "choices": [
                            {
                                "index": 0, "finish_reason": "stop",
                                "message": {"role": "assistant", "content": reply},
                            }
                        ],
                        "usage": {
                            "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120
                        },
                    }
                ).encode()  # fmt: skip
            content = content or b'{"error": {"message": "refused on purpose"}}'
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status == 429:
                self.send_header("Retry-After", "0.05")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", chat
    finally:
        server.shutdown()
        server.server_close()
