#!/usr/bin/env python3
"""phalanx serve, as its clients see it. Only what Python brings along.

server_test.py PHALANX RANKS MPIRUN...
"""
import atexit
import concurrent.futures
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

PHALANX, RANKS, MPIRUN = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
LAUNCHER = [*MPIRUN, "-np", str(RANKS)] if RANKS > 1 else []
HERE = os.path.dirname(os.path.abspath(__file__))
TEMPLATE = HERE + "/../data/templates/chatml.jinja"
DEMO = HERE + "/../../models/demo"
SLOW = int(os.environ.get("PHX_TEST_SLOW", "1"))  # sanitizers: more


class Server:
    """A server at a port of its own; its standard error is kept. Its ranks have the folder's name
    in their arguments. `state` is what is waited for."""

    def __init__(self, *arguments, command=None, environment=None, state="ready"):
        self.folder = tempfile.TemporaryDirectory()
        self.pid_file = self.folder.name + "/pid"
        self.log = open(self.folder.name + "/log", "w+b")
        command = command or [*LAUNCHER, PHALANX, "serve"]
        own = "--pid-file" if command[-1] == "serve" else "--served-model-name"
        self.process = subprocess.Popen(
            [*command, own, self.pid_file, "--port", "0", "--device", "cpu", "-t", "1", *arguments],
            stderr=self.log, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})})
        atexit.register(self.process.kill)  # what a failed test leaves; its ranks die with it
        deadline = time.time() + 60 * SLOW
        while not (said := re.search(r"https?://127\.0\.0\.1:(\d+): " + state, self.text())):
            if self.process.poll() is not None or time.time() > deadline:
                self.process.kill()
                raise AssertionError("the server does not start:\n" + self.text())
            time.sleep(0.05)
        self.port = int(said.group(1))
        if os.path.exists(self.pid_file):
            with open(self.pid_file) as file:
                self.pid = int(file.read())

    def text(self):
        with open(self.log.name, "rb") as file:
            return file.read().decode("utf-8", "replace")

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout * SLOW)

    def call(self, path, body=None, headers=None, method=None):
        """Status and answer: an object where it is JSON."""
        connection = self.connect()
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        connection.request(method or ("GET" if data is None else "POST"), path, data, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.getheader("Content-Type", "").startswith("application/json"):
            return response.status, json.loads(text)
        return response.status, text.decode("utf-8")

    def complete(self, **body):
        status, answer = self.call("/v1/completions", body)
        assert status == 200, answer
        return answer

    def stream(self, path="/v1/completions", **body):
        """The events of a stream, [DONE] left out."""
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.getheader("Content-Type") == "text/event-stream"
        events = []
        for line in response.read().decode("utf-8").split("\n\n"):
            if line.startswith("data: "):
                events.append(line[6:])
        connection.close()
        assert events[-1] == "[DONE]", events
        return [json.loads(event) for event in events[:-1]]

    def metrics(self):
        status, text = self.call("/metrics")
        assert status == 200
        values = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name.replace('{model_name="demo"}', "")] = float(value)
        return values

    def wait_idle(self, seconds=10):
        deadline = time.time() + seconds * SLOW
        while True:
            m = self.metrics()
            busy = m["phalanx:num_requests_running"] + m["phalanx:num_requests_waiting"]
            if busy == 0 and m["phalanx:kv_cache_usage_perc"] == 0:
                seconds = [m[f"phalanx:engine_{of}_seconds_total"] for of in ("device", "busy", "loop")]
                assert 0 < seconds[0] <= seconds[1] <= seconds[2], seconds
                return m
            assert time.time() < deadline, m
            time.sleep(0.02)

    def end(self):
        """In order; the exit status."""
        os.kill(self.pid, signal.SIGTERM)
        status = self.process.wait(20 * SLOW)
        if status != 0:
            print(self.text()[-3000:])
        return status


def generate(prompt, n):
    """The greedy text by phalanx generate, which does not know HTTP."""
    out = subprocess.run([PHALANX, "generate", "-p", prompt, "-n", str(n), "--temp", "0", "--json",
                          "--device", "cpu", "-t", "1"], capture_output=True, check=True)
    return json.loads(out.stdout)["text"]


def sent(port, data, wait=5, shut=False):
    """What comes back for raw bytes, until the other end closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait * SLOW) as s:
        try:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        answer = b""
        try:
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                answer += piece
        except OSError:
            pass
        return answer


def post(body, path="/v1/completions", length=None, extra=""):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length or len(data)}\r\n{extra}\r\n"
    return head.encode() + data


LONG = {"prompt": "JULIET:", "max_tokens": 480, "ignore_eos": True, "stream": True,
        "n": 16 if SLOW == 1 else 4}
PROMPTS = ["JULIET:", "ROMEO:\nWhat", "To be, or not", "The king", "Good night, good night!"]


def check_mixed(test, server):
    """32 mixed requests at the same time; greedy ones come out as alone."""
    want = {p: generate(p, 40) for p in PROMPTS}

    def one(i):
        prompt = PROMPTS[i % len(PROMPTS)]
        if i % 4 == 3:
            a = server.complete(prompt=prompt, max_tokens=30, n=2, seed=i, temperature=1)
            b = server.complete(prompt=prompt, max_tokens=30, n=2, seed=i, temperature=1)
            return [c["text"] for c in a["choices"]] == [c["text"] for c in b["choices"]]
        if i % 2:
            events = server.stream(prompt=prompt, max_tokens=40, temperature=0)
            return "".join(e["choices"][0]["text"] for e in events) == want[prompt]
        return server.complete(prompt=prompt, max_tokens=40,
                               temperature=0)["choices"][0]["text"] == want[prompt]

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        n = 64 if SLOW == 1 else 24
        test.assertEqual(list(pool.map(one, range(n))), [True] * n)
    server.wait_idle()


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.end() == 0

    def test_about(self):
        s = self.server
        self.assertEqual(s.call("/health"), (200, {"status": "ok"}))
        self.assertIn("version", s.call("/version")[1])
        model = s.call("/v1/models")[1]["data"][0]
        self.assertEqual((model["id"], model["object"]), ("demo", "model"))
        self.assertEqual(s.call("/v1/models/demo"), (200, model))
        self.assertEqual(s.call("/v1/models/other")[0], 404)
        self.assertEqual(s.call("/nothing")[0], 404)
        self.assertEqual(s.call("/v1/completions")[0], 405)

    def test_greedy_is_generate(self):
        for prompt in PROMPTS:
            want = generate(prompt, 24)
            answer = self.server.complete(prompt=prompt, max_tokens=24, temperature=0)
            choice = answer["choices"][0]
            self.assertEqual(choice["text"], want)
            self.assertEqual((choice["index"], choice["finish_reason"]), (0, "length"))
            self.assertEqual(answer["object"], "text_completion")
            self.assertEqual(answer["usage"]["completion_tokens"], 24)
            self.assertEqual(answer["timings"]["predicted_n"], 24)
            events = self.server.stream(prompt=prompt, max_tokens=24, temperature=0)
            self.assertEqual("".join(e["choices"][0]["text"] for e in events), want)
            self.assertEqual([e["choices"][0]["finish_reason"] for e in events][-1], "length")
            self.assertIn("timings", events[-1])

    def test_concurrent(self):
        check_mixed(self, self.server)

    def test_choices_and_prompts(self):
        answer = self.server.complete(prompt=["JULIET:", "ROMEO:"], n=3, max_tokens=6, seed=3)
        self.assertEqual([c["index"] for c in answer["choices"]], [0, 1, 2, 3, 4, 5])
        texts = [c["text"] for c in answer["choices"]]
        self.assertEqual(len(set(texts)), 6)
        ids = self.server.call("/tokenize", {"prompt": "JULIET:"})[1]["tokens"]
        same = self.server.complete(prompt=ids, n=3, max_tokens=6, seed=3)
        self.assertEqual([c["text"] for c in same["choices"]], texts[:3])
        streamed = {}
        for e in self.server.stream(prompt=["JULIET:", "ROMEO:"], n=3, max_tokens=6, seed=3,
                                    stream_options={"include_usage": True}):
            for c in e["choices"]:
                streamed[c["index"]] = streamed.get(c["index"], "") + c["text"]
        self.assertEqual([streamed[i] for i in range(6)], texts)
        self.assertEqual(e["usage"]["completion_tokens"], 36)
        self.assertEqual(e["choices"], [])

    def test_stops(self):
        whole = generate("JULIET:", 40)
        cut = whole.index("time")
        for stop in ("time", ["xyz", "time"]):
            choice = self.server.complete(prompt="JULIET:", max_tokens=40, temperature=0,
                                          stop=stop)["choices"][0]
            self.assertEqual((choice["text"], choice["finish_reason"]), (whole[:cut], "stop"))
        first = self.server.complete(prompt="JULIET:", max_tokens=1, temperature=0,
                                     return_token_ids=True)["choices"][0]["token_ids"]
        choice = self.server.complete(prompt="JULIET:", max_tokens=40, temperature=0,
                                      stop_token_ids=first)["choices"][0]
        self.assertEqual((choice["text"], choice["finish_reason"]), ("", "stop"))
        long = self.server.complete(prompt="JULIET:", max_tokens=40, temperature=0, min_tokens=5,
                                    stop_token_ids=first)["usage"]["completion_tokens"]
        self.assertGreater(long, 5)

    def test_bias(self):
        answer = self.server.complete(prompt="JULIET:", max_tokens=3, temperature=0,
                                      logit_bias={"40": 100}, return_token_ids=True)
        self.assertEqual(answer["choices"][0]["token_ids"], [40, 40, 40])

    def test_logprobs(self):
        answer = self.server.complete(prompt="JULIET:", max_tokens=4, temperature=0, logprobs=3)
        told = answer["choices"][0]["logprobs"]
        self.assertEqual("".join(told["tokens"]), answer["choices"][0]["text"])
        for logprob, top in zip(told["token_logprobs"], told["top_logprobs"]):
            self.assertEqual(logprob, max(top.values()))  # greedy
            self.assertEqual(len(top), 3)
        plain = self.server.complete(prompt="JULIET:", max_tokens=4, temperature=0, logprobs=0)
        for a, b in zip(plain["choices"][0]["logprobs"]["token_logprobs"], told["token_logprobs"]):
            self.assertAlmostEqual(a, b, places=4)
        echo = self.server.complete(prompt="JULIET:", max_tokens=4, temperature=0, logprobs=3,
                                    echo=True)["choices"][0]
        self.assertEqual(echo["text"], "JULIET:" + answer["choices"][0]["text"])
        self.assertIsNone(echo["logprobs"]["token_logprobs"][0])
        for a, b in zip(echo["logprobs"]["token_logprobs"][-4:], told["token_logprobs"]):
            self.assertAlmostEqual(a, b, places=4)
        scored = self.server.complete(prompt="JULIET: and it is", max_tokens=0, logprobs=0,
                                      echo=True)["choices"][0]
        self.assertEqual(scored["text"], "JULIET: and it is")
        self.assertEqual(scored["logprobs"]["token_logprobs"][3],
                         echo["logprobs"]["token_logprobs"][3])

    def test_bytes(self):
        """A token that is a part of a character is told by its bytes."""
        ids = self.server.call("/tokenize", {"prompt": "\u4f60", "add_special_tokens": False})[1]
        self.assertEqual(ids["count"], 3)
        for id, name in zip(ids["tokens"], ("e4", "bd", "a0")):
            told = self.server.complete(prompt="JULIET:", max_tokens=1, logprobs=2, temperature=0,
                                        logit_bias={str(id): 100})["choices"][0]["logprobs"]
            self.assertEqual(told["tokens"], ["bytes:\\x" + name])
            self.assertEqual(len(told["top_logprobs"][0]), 3)

    def test_prefix_cache(self):
        prompt = "Once more unto the breach, dear friends, once more. " * 6
        first = self.server.complete(prompt=prompt, max_tokens=8, temperature=0)
        again = self.server.complete(prompt=prompt, max_tokens=8, temperature=0)
        self.assertEqual(first["choices"][0]["text"], again["choices"][0]["text"])
        self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"], 32)

    def test_texts_and_ids(self):
        for text in ("Good night", "na\u00efve \u4f60\u597d \U0001f600", "a\u0000b"):
            ids = self.server.call("/tokenize", {"prompt": text, "add_special_tokens": False})[1]
            self.assertEqual(ids["count"], len(ids["tokens"]))
            back = self.server.call("/detokenize", {"tokens": ids["tokens"]})[1]
            self.assertEqual(back["prompt"], text)
        self.assertEqual(self.server.call("/detokenize", {"tokens": [99999]})[0], 400)

    def test_errors(self):
        def error(body, path="/v1/completions"):
            status, answer = self.server.call(path, body)
            self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
            return status, answer["error"]["param"], answer["error"]["code"]

        self.assertEqual(error({"prompt": "a", "temperature": 9}), (400, "temperature", None))
        self.assertEqual(error({"prompt": "a", "model": "x"}), (404, "model", "model_not_found"))
        self.assertEqual(error({"prompt": "a" * 9000}), (400, "prompt", "context_length_exceeded"))
        self.assertEqual(error({"prompt": "a", "max_tokens": 9000}),
                         (400, "max_tokens", "context_length_exceeded"))
        self.assertEqual(error({"prompt": [5000]}), (400, "prompt", None))
        self.assertEqual(error({"prompt": "a", "logit_bias": {"5000": 1}}),
                         (400, "logit_bias", None))
        self.assertEqual(error(b"{"), (400, None, None))

    def test_hang_ups(self):
        """Streamed, waited for, half-closed: what nobody waits for any more ends."""
        body = {"prompt": "JULIET:", "max_tokens": 480, "ignore_eos": True, "n": 8}
        for stream in (True, False):
            for _ in range(4):
                s = socket.create_connection(("127.0.0.1", self.server.port))
                s.sendall(post({**body, "stream": stream}))
                if stream:
                    s.recv(10)
                else:
                    time.sleep(0.02)
                s.close()
        self.server.wait_idle()
        cancelled = self.server.metrics()[
            'phalanx:request_success_total{model_name="demo",finished_reason="cancelled"}']
        self.assertGreater(cancelled, 0)


class Hostile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-body-mb", "1", "--request-timeout", "2", "--max-connections",
                            "1100", "--max-num-seqs", "16")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.end() == 0

    def tearDown(self):
        answer = self.server.complete(prompt="JULIET:", max_tokens=2, temperature=0)
        self.assertEqual(answer["usage"]["completion_tokens"], 2)

    def memory_kb(self):
        with open(f"/proc/{self.server.pid}/status") as file:
            return int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))

    def test_bodies(self):
        port = self.server.port
        self.assertIn(b" 413 ", sent(port, post(b"x" * 100, length=10 ** 9)))
        self.assertIn(b" 413 ", sent(port, post(b"x" * (2 << 20), length=2 << 20)))
        chunked = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
                   (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 32 + b"0\r\n\r\n")
        self.assertIn(b" 413 ", sent(port, chunked))
        whole = post({"prompt": "JULIET:", "max_tokens": 2})
        for cut in (4, 30, len(whole) - 1):
            self.assertNotIn(b" 200 ", sent(port, whole[:cut], wait=20, shut=True))
        for n, status in ((1000, b" 200 "), (3000, b" 400 ")):  # in what would be ignored
            for open, close in ((b"[", b"]"), (b'{"a":', b"}")):
                deep = open * n + (b"1" if close == b"}" else b"") + close * n
                self.assertIn(status, sent(port, post(
                    b'{"prompt":"a","max_tokens":1,"x":' + deep + b"}", extra="Connection: close\r\n")))
        self.assertIn(b" 400 ", sent(port, post(b'{"prompt":' + b"[" * 500000)))
        self.assertIn(b" 400 ", sent(port, post(b'{"prompt":"\xff\xfe\x80"}')))
        self.assertIn(b" 400 ", sent(port, post(b'{"prompt":"\\ud800"}')))
        self.assertIn(b" 400 ", sent(port, post(b'{"prompt":"a","seed":1e999}')))

    def test_headers(self):
        port = self.server.port
        flood = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 100) for i in range(5000))
        answer = sent(port, b"GET /health HTTP/1.1\r\nHost: x\r\n" + flood + b"\r\n")
        self.assertTrue(answer == b"" or b" 431 " in answer or b" 413 " in answer, answer[:200])
        answer = sent(port, b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(answer == b"" or b" 414 " in answer, answer[:200])
        for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
                        b"GET /health HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                        b"GET /\x1b[31m\"\\ HTTP/1.1\r\nHost: x\r\n\r\n"):
            sent(port, garbage, wait=0.3, shut=True)
        self.assertNotIn("\x1b", self.server.text())

    def test_pipelined(self):
        one = post({"prompt": "JULIET:", "max_tokens": 2, "temperature": 0})
        answer = sent(self.server.port, one * 3 + b"garbage\r\n\r\n")
        self.assertEqual(answer.count(b'"text_completion"'), 3)

    def test_slow(self):
        """Half a header, half a body, drops of it: closed in time."""
        begun = time.time()
        for data in (b"GET /hea", post({"prompt": "a"}, length=500)):
            sent(self.server.port, data, wait=20)
        s = socket.create_connection(("127.0.0.1", self.server.port))
        try:
            for c in post({"prompt": "a" * 100}):
                s.sendall(bytes([c]))
                time.sleep(0.1)
                if time.time() - begun > 30 * SLOW:
                    break
        except OSError:
            pass
        self.assertLess(time.time() - begun, 20 * SLOW)
        s.close()

    def test_reads_nothing(self):
        """A client that asks for a lot and does not read: others are served, and it is ended."""
        sockets = []
        for _ in range(3):
            s = socket.create_connection(("127.0.0.1", self.server.port))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.sendall(post({"prompt": "JULIET:", "max_tokens": 500, "n": 64, "stream": True,
                            "ignore_eos": True, "logprobs": 20}))
            sockets.append(s)
        self.server.complete(prompt="JULIET:", max_tokens=2)
        m = self.server.wait_idle(60)
        self.assertGreaterEqual(
            m['phalanx:request_success_total{model_name="demo",finished_reason="cancelled"}'], 1)
        for s in sockets:
            s.close()

    def test_connections(self):
        before = self.memory_kb()
        sockets = []
        for _ in range(1000):
            s = socket.create_connection(("127.0.0.1", self.server.port), timeout=10 * SLOW)
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
            sockets.append(s)
        self.assertEqual(self.server.call("/health")[0], 200)
        self.server.complete(prompt="JULIET:", max_tokens=2)
        if SLOW == 1:
            self.assertLess(self.memory_kb() - before, 150 << 10)
        for s in sockets:
            s.close()


class Limits(unittest.TestCase):
    def test_tiny_cache(self):
        """Texts that push each other out of the cache come out as alone."""
        server = Server("--kv-cache-tokens", "64", "--max-num-seqs", "4")
        check_mixed(self, server)
        want = generate("JULIET:", 100)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            texts = list(pool.map(lambda _: server.complete(
                prompt="JULIET:", max_tokens=100, temperature=0)["choices"][0]["text"], range(16)))
        self.assertEqual(texts, [want] * 16)
        self.assertGreater(server.metrics()["phalanx:num_preemptions_total"], 0)
        status, answer = server.call("/v1/completions", {"prompt": "a", "max_tokens": 480})
        self.assertEqual(status, 400, answer)
        server.wait_idle()
        self.assertEqual(server.end(), 0)

    def test_no_prefix_cache(self):
        server = Server("--no-prefix-cache")
        prompt = "Once more unto the breach, dear friends, once more. " * 6
        for _ in range(2):
            answer = server.complete(prompt=prompt, max_tokens=8, temperature=0)
            self.assertEqual(answer["choices"][0]["text"], generate(prompt, 8))
            self.assertEqual(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        check_mixed(self, server)
        self.assertEqual(server.end(), 0)

    def test_key(self):
        with tempfile.NamedTemporaryFile("w", suffix=".key") as file:
            file.write("correct-horse-battery\n")
            file.flush()
            server = Server("--api-key-file", file.name, "--log-format", "json", "-v")
        self.assertEqual(server.call("/health")[0], 200)
        for headers in ({}, {"Authorization": "Bearer wrong"},
                        {"Authorization": "Bearer correct-horse-battery2"},
                        {"Authorization": "Bearer correct-horse-batter"},
                        {"Authorization": "correct-horse-battery"}):
            status, answer = server.call("/v1/models", headers=headers)
            self.assertEqual((status, answer["error"]["code"]), (401, "invalid_api_key"))
            self.assertNotIn("correct-horse", json.dumps(answer))
        for path, body, wanted in (("/v1/completions", {"prompt": "a", "max_tokens": 1}, 200),
                                   ("/v1/completions", {"prompt": 7}, 400),
                                   ("/v1/nothing", {}, 404)):
            status, answer = server.call(path, body, {"Authorization": "Bearer correct-horse-battery"})
            self.assertEqual(status, wanted)
            self.assertNotIn("correct-horse", json.dumps(answer))
        self.assertEqual(server.end(), 0)
        self.assertNotIn("correct-horse", server.text())
        lines = [json.loads(l) for l in server.text().splitlines() if l.startswith("{")]
        self.assertEqual([l["status"] for l in lines], [200] + [401] * 5 + [200, 400, 404])

    def test_connection_limit(self):
        """Who comes when all connections are taken waits until one is free."""
        server = Server("--max-connections", "4")
        taken = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
        for s in taken:
            s.sendall(b"GET /health HTTP/1.1\r\n")
        time.sleep(0.2)
        late = socket.create_connection(("127.0.0.1", server.port), timeout=0.5)
        late.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        self.assertRaises(TimeoutError, late.recv, 100)
        taken.pop().close()
        late.settimeout(20 * SLOW)
        self.assertIn(b" 200 ", late.recv(100))
        for s in taken + [late]:
            s.close()
        self.assertEqual(server.end(), 0)


class Chats(unittest.TestCase):
    MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "To be?"}]
    TEXT = ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTo be?<|im_end|>\n"
            "<|im_start|>assistant\n")

    def check(self, text, *arguments):
        """A chat is a completion of the template's text, served and on the terminal."""
        server = Server(*arguments)
        body = {"messages": self.MESSAGES, "max_tokens": 12, "temperature": 0}
        self.assertEqual(server.call("/apply-template", body), (200, {"prompt": text}))
        want = server.complete(prompt=text, add_special_tokens=False, max_tokens=12,
                               temperature=0)["choices"][0]["text"]
        status, answer = server.call("/v1/chat/completions", body)
        self.assertEqual(status, 200, answer)
        self.assertEqual(answer["object"], "chat.completion")
        self.assertEqual(answer["choices"][0]["message"],
                         {"role": "assistant", "content": want, "refusal": None})
        events = server.stream("/v1/chat/completions", **body)
        self.assertEqual({e["object"] for e in events}, {"chat.completion.chunk"})
        self.assertEqual(events[0]["choices"][0]["delta"]["role"], "assistant")
        told = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
        self.assertEqual(told, want)
        command = [*LAUNCHER, PHALANX, "chat", *arguments, "--system", "Be brief.", "--temp", "0",
                   "-n", "12", "-t", "1", "--device", "cpu"]
        out = subprocess.run(command, input=b"To be?\n/exit\n", capture_output=True, check=True)
        self.assertEqual(out.stdout.decode(), want + "\n")
        return server

    def test_chat(self):
        server = self.check(self.TEXT, "--chat-template", TEMPLATE)
        body = {"messages": self.MESSAGES, "max_tokens": 1, "temperature": 0}
        ids = server.call("/tokenize", {"prompt": "\u4f60", "add_special_tokens": False})[1]["tokens"]
        _, answer = server.call("/v1/chat/completions", {
            **body, "logprobs": True, "top_logprobs": 3, "logit_bias": {ids[0]: 100}})
        place = answer["choices"][0]["logprobs"]["content"][0]
        self.assertEqual((place["token"], place["bytes"]), ("\\xe4", [0xe4]))
        for top in place["top_logprobs"]:
            self.assertEqual(top["token"].encode(), bytes(top["bytes"]))
        status, answer = server.call("/v1/chat/completions", {**body, "tools": [{}]})
        self.assertEqual((status, answer["error"]["param"]), (400, "tools"))
        self.assertEqual(server.end(), 0)

    def test_own_template(self):
        """That of a folder, one of several, and of the GGUF file that it is converted to, and of the
        folder that this becomes; it writes the first token, which comes once."""
        bos = "<|begin_of_text|>"
        with open(TEMPLATE) as file:
            template = "{{ bos_token }}" + file.read()
        with tempfile.TemporaryDirectory() as scratch:
            folder, gguf, back = scratch + "/model", scratch + "/model.gguf", scratch + "/back"
            shutil.copytree(DEMO, folder)
            os.mkdir(back)
            with open(folder + "/tokenizer_config.json", "w") as file:
                json.dump({"bos_token": {"content": bos}, "chat_template": [
                    {"name": "tool_use", "template": "no"},
                    {"name": "default", "template": template}]}, file)
            subprocess.run([PHALANX, "convert", "-m", folder, "-o", gguf], check=True)
            subprocess.run([PHALANX, "convert", "-m", gguf, "-o", back], check=True)
            for model in (folder, gguf, back):
                with self.subTest(model):
                    server = self.check(bos + self.TEXT, "-m", model)
                    _, answer = server.call("/v1/chat/completions",
                                            {"messages": self.MESSAGES, "max_tokens": 1})
                    ids = server.call("/tokenize", {"prompt": self.TEXT})[1]  # with the first token
                    self.assertEqual(answer["usage"]["prompt_tokens"], ids["count"])
                    self.assertEqual(server.end(), 0)

    def test_no_template(self):
        server = Server()
        status, answer = server.call("/v1/chat/completions", {"messages": self.MESSAGES})
        self.assertEqual(status, 400)
        self.assertIn("--chat-template", answer["error"]["message"])
        self.assertEqual(server.end(), 0)


@unittest.skipIf(shutil.which("openssl") is None, "no openssl to make a certificate with")
class Tls(unittest.TestCase):
    def test_https(self):
        with tempfile.TemporaryDirectory() as folder:
            key, certificate = folder + "/key.pem", folder + "/cert.pem"
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key,
                            "-out", certificate, "-days", "2", "-subj", "/CN=localhost", "-addext",
                            "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
            server = Server("--ssl-certfile", certificate, "--ssl-keyfile", key)
            context = ssl.create_default_context(cafile=certificate)
        connect = lambda: http.client.HTTPSConnection("127.0.0.1", server.port, context=context,
                                                      timeout=60 * SLOW)
        server.connect = connect
        events = server.stream(prompt="JULIET:", max_tokens=24, temperature=0)
        self.assertEqual("".join(e["choices"][0]["text"] for e in events), generate("JULIET:", 24))
        connection = connect()
        connection.request("POST", "/v1/completions", json.dumps(LONG))
        connection.getresponse().read(20)
        connection.close()
        server.wait_idle()
        self.assertEqual(server.end(), 0)


if __name__ == "__main__":
    unittest.main(warnings="ignore", argv=[sys.argv[0], *os.environ.get("PHX_TEST", "").split()])
