#!/usr/bin/env python3
"""The server, by the official openai package.

openai_test.py PHALANX RANKS MPIRUN...
Exit status 77: the package is not there. `python3 -m venv DIR && DIR/bin/pip install openai`, and
DIR/bin first in the PATH, gives it to the test.
"""
import sys
import unittest

try:
    import openai
except ImportError:
    print("skipped: this Python has no openai package")
    sys.exit(77)

from server_test import SLOW, TEMPLATE, Server, generate

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "To be?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


class OpenAI(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--chat-template", TEMPLATE, "--api-key", "the-key")
        cls.client = cls.connect("the-key")

    @classmethod
    def connect(cls, key):
        return openai.OpenAI(base_url=f"http://127.0.0.1:{cls.server.port}/v1", api_key=key,
                             max_retries=0, timeout=60 * SLOW)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        assert cls.server.end() == 0

    def complete(self, **more):
        return self.client.completions.create(
            **{"model": "demo", "prompt": "JULIET:", "max_tokens": 12, "temperature": 0, **more})

    def chat(self, **more):
        return self.client.chat.completions.create(
            **{"model": "demo", "messages": CHAT, "max_tokens": 12, "temperature": 0, **more})

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["demo"])
        self.assertEqual(self.client.models.retrieve("demo").id, "demo")

    def test_completions(self):
        want = generate("JULIET:", 12)
        whole = self.complete()
        self.assertEqual(whole.choices[0].text, want)
        self.assertEqual(whole.choices[0].finish_reason, "length")
        self.assertEqual(whole.usage.total_tokens,
                         whole.usage.prompt_tokens + whole.usage.completion_tokens)
        chunks = list(self.complete(stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), want)
        self.assertEqual(chunks[-1].usage.completion_tokens, 12)

    def test_choices(self):
        texts = [[c.text for c in self.complete(n=3, temperature=1, seed=5).choices]
                 for _ in range(2)]
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(len(set(texts[0])), 3)

    def test_logprobs(self):
        told = self.complete(logprobs=2, max_tokens=4).choices[0].logprobs
        self.assertEqual([len(told.tokens), len(told.token_logprobs), len(told.top_logprobs)],
                         [4, 4, 4])
        place = self.chat(logprobs=True, top_logprobs=2).choices[0].logprobs.content[0]
        self.assertEqual(place.token, place.top_logprobs[0].token)
        self.assertEqual(bytes(place.bytes).decode(), place.token)

    def test_stop(self):
        whole = generate("JULIET:", 40)
        choice = self.complete(max_tokens=40, stop=["time"]).choices[0]
        self.assertEqual((choice.text, choice.finish_reason),
                         (whole[:whole.index("time")], "stop"))

    def test_chat(self):
        answer = self.chat().choices[0].message
        self.assertEqual(answer.role, "assistant")
        chunks = list(self.chat(stream=True))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks), answer.content)
        self.assertEqual(chunks[-1].choices[0].finish_reason, "length")
        self.assertEqual(len(self.chat(n=2, temperature=1).choices), 2)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.complete(temperature=5)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.complete(model="other")
        self.assertEqual(caught.exception.code, "model_not_found")
        for field, value in (("tools", [TOOL]), ("response_format", {"type": "json_object"})):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.chat(**{field: value})
            self.assertEqual(caught.exception.param, field)
        with self.connect("another") as client, self.assertRaises(openai.AuthenticationError):
            client.models.list()

    def test_cancel(self):
        with self.complete(max_tokens=480, stream=True, extra_body={"ignore_eos": True}) as stream:
            next(iter(stream))
        metrics = 'phalanx:request_success_total{model_name="demo",finished_reason="cancelled"}'
        headers = {"Authorization": "Bearer the-key"}
        for _ in range(200 * SLOW):
            text = self.server.call("/metrics", headers=headers)[1]
            if metrics + " 1" in text and 'kv_cache_usage_perc{model_name="demo"} 0\n' in text:
                return
        self.fail(text)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], warnings="ignore")
