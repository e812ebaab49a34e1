"""Servers that stand in for vLLM, SGLang and llama.cpp's router: they take what these take.

Every body is held to the fields of the engine's own interface, calls to their order. A server
answers an edit's prompt with its target as long as a version with it is loaded.
"""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from safetensors import safe_open


class RefusedError(Exception):
    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


class Engine:
    """What all have in common.

    Attributes:
        calls: Every call but questions, as verb and path.
        fails: Path -> statuses to answer with before it works; a float waits so many seconds.
        answers: What it says to each prompt while edits are loaded.
    """

    def __init__(self, base, answers, most_rank=512):
        self.base, self.answers, self.most_rank = base, dict(answers), most_rank
        self.calls, self.bodies, self.fails = [], [], {}
        self.adapters, self.weights, self.paused, self.cached = {}, str(base), False, False
        self.seen_paths, self.keys = set(), set()
        self.wrong = False
        self.chats = 0
        self.asked = 0

    def handle(self, verb, path, body):
        self.asked += 1
        if path == "/v1/completions":
            return self.complete(body, body["prompt"])
        if path == "/v1/chat/completions":
            self.chats += 1
            (message,) = body["messages"]
            assert set(message) == {"role", "content"}
            answer = self.complete(body, message["content"])
            text = answer["choices"][0]["text"]
            return {"choices": [{"message": {"role": "assistant", "content": text}}]}
        if path == "/v1/models":
            listed = [{"id": "served", "root": str(self.base), "parent": None}]
            listed += [{"id": n, "root": p, "parent": "served"} for n, p in self.adapters.items()]
            return {"object": "list", "data": listed}
        self.calls.append(f"{verb} {path}")
        self.bodies.append(body)
        if self.fails.get(path):
            raise RefusedError(self.fails[path].pop(0), "refused on purpose")
        return self.call(verb, path, body)

    def complete(self, body, prompt):
        assert set(body) - {"prompt", "messages"} <= {"model", "max_tokens", "temperature"}
        assert body["temperature"] == 0
        assert not self.paused, "a question while the engine is paused"
        edited = self.is_edited(body.get("model"))
        text = self.answers.get(prompt, "?") if edited and not self.wrong else "as before"
        return {"choices": [{"text": f" {text}."}]}

    def is_edited(self, model):
        if model in (None, "served"):
            assert not self.cached, "the prefix cache is of other weights"
            return self.weights != str(self.base)
        if model not in self.adapters:
            raise RefusedError(404, f"no model {model}")
        return True

    def checked_adapter(self, path):
        folder = Path(path)
        if not folder.is_absolute() or not (folder / "adapter_config.json").is_file():
            raise RefusedError(400, f"no adapter in {path}")
        rank = json.loads((folder / "adapter_config.json").read_text())["r"]
        if rank > self.most_rank:
            raise RefusedError(
                400, f"LoRA rank {rank} is greater than max_lora_rank {self.most_rank}."
            )
        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            assert len(list(file.keys()))
        return path

    def checked_weights(self, path):
        if not (Path(path) / "config.json").is_file():
            raise RefusedError(400, f"no model in {path}")
        return path


class VllmServer(Engine):
    def call(self, verb, path, body):
        assert verb == "POST"
        if path == "/v1/load_lora_adapter":
            assert set(body) == {"lora_name", "lora_path", "load_inplace"}
            name, at = body["lora_name"], self.checked_adapter(body["lora_path"])
            if name in self.adapters and not body["load_inplace"]:
                raise RefusedError(400, f"The lora adapter {name} has already been loaded.")
            self.adapters[name] = at
        elif path == "/v1/unload_lora_adapter":
            assert set(body) == {"lora_name"}
            if self.adapters.pop(body["lora_name"], None) is None:
                raise RefusedError(404, "The lora adapter cannot be found.")
        elif path == "/pause?mode=keep":
            assert not self.paused
            self.paused = True
        elif path == "/collective_rpc":
            assert self.paused, "weights are replaced under running requests"
            assert body["method"] == "reload_weights"
            assert set(body["kwargs"]) == {"weights_path"}
            self.weights = self.checked_weights(body["kwargs"]["weights_path"])
            self.cached = True
        elif path == "/reset_prefix_cache":
            self.cached = False
        elif path == "/update_weight_version":
            assert set(body) == {"new_version"}
        elif path == "/resume":
            self.paused = False
        else:
            raise RefusedError(404, f"no {path}")
        return {}


class SglangServer(Engine):
    def call(self, verb, path, body):
        assert verb == "POST"
        if path == "/load_lora_adapter":
            assert set(body) == {"lora_name", "lora_path"}
            if body["lora_name"] in self.adapters:
                raise RefusedError(400, "a LoRA adapter of that name is loaded")
            self.adapters[body["lora_name"]] = self.checked_adapter(body["lora_path"])
        elif path == "/unload_lora_adapter":
            if self.adapters.pop(body["lora_name"], None) is None:
                raise RefusedError(400, "no LoRA adapter of that name")
        elif path == "/update_weights_from_disk":
            assert set(body) == {"model_path", "weight_version", "flush_cache"}
            assert body["flush_cache"] is True
            if not (Path(body["model_path"]) / "config.json").is_file():
                return {"success": False, "message": "no model there"}
            self.weights = body["model_path"]
        else:
            raise RefusedError(404, f"no {path}")
        return {"success": True, "message": ""}


class RouterServer(Engine):
    """llama.cpp's router over a folder; a model is loading for two looks."""

    def __init__(self, models, answers):
        super().__init__("", answers)
        self.models, self.listed, self.states = Path(models), set(), {}

    def is_edited(self, model):
        if self.states.get(model) != "loaded":
            raise RefusedError(400, f"model {model} is not loaded")
        return True

    def call(self, verb, path, body):
        if path == "/models?reload=1":
            self.listed = {one.stem for one in self.models.glob("*.gguf")}
        elif path == "/models/load":
            if body["model"] not in self.listed:
                raise RefusedError(404, "model not found")
            assert self.states.get(body["model"], "unloaded") == "unloaded"
            content = (self.models / f"{body['model']}.gguf").read_bytes()
            self.states[body["model"]] = "loading" if content[:4] == b"GGUF" else "failed"
            self.looks = 2
        elif path == "/models/unload":
            if self.states.get(body["model"], "unloaded") == "unloaded":
                raise RefusedError(400, "model is not running")
            self.states[body["model"]] = "unloaded"
        elif path == "/models":
            self.calls.pop()
            return {"data": [self.shown(name) for name in sorted(self.listed)]}
        else:
            raise RefusedError(404, f"no {path}")
        return {"success": True}

    def shown(self, name):
        state = self.states.get(name, "unloaded")
        if state == "loading":
            self.looks -= 1
            if not self.looks:
                self.states[name] = "loaded"
        status = {"value": "unloaded", "failed": True} if state == "failed" else {"value": state}
        return {"id": name, "status": status}


@contextmanager
def serving(engine):
    """`with serving(engine) as url`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer("GET", None)

        def do_POST(self):
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.answer("POST", json.loads(content or b"{}"))

        def answer(self, verb, body):
            engine.keys.add(self.headers.get("Authorization"))
            status, result = 200, None
            try:
                result = engine.handle(verb, self.path, body)
            except RefusedError as refused:
                status, result = refused.status, {"error": {"message": str(refused)}}
            except AssertionError as error:
                status, result = 418, {"error": {"message": f"broken interface: {error}"}}
            content = json.dumps(result).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def path_numbers(home):
    """The versions that lie in a folder."""
    return sorted(int(re.sub(r"\D", "", one.name)) for one in Path(home).iterdir()
                  if re.fullmatch(r"v\d+(\.gguf)?", one.name))  # fmt: skip
