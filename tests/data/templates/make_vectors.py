#!/usr/bin/env python3
"""Make expressions.json and chats.json: what jinja2 makes of templates, in the environment that
transformers gives them. Needs the Python package jinja2. The templates of chats are written for this
test, in the manner of the models they are named after."""
import datetime
import json
import os
import pathlib
import time

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

os.environ["TZ"] = "UTC"
time.tzset()
here = pathlib.Path(__file__).resolve().parent
NOW = 1753000000


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(NOW).strftime(f)
    return env


def vector(name, template, variables):
    out = {"name": name, "template": template, "variables": variables, "now": NOW}
    try:
        out["text"] = environment().from_string(template).render(**variables)
    except Exception:  # whatever it is, we must fail too
        out["failed"] = True
    return out


def write(file, vectors):
    text = json.dumps(vectors, indent=0, ensure_ascii=False)
    (here / file).write_text(text + "\n")
    print(file, len(vectors), sum("failed" in v for v in vectors), "fail")


values = {
    "s": "Hello, W\u00f6rld", "t": "  a b\tc\n", "e": "", "n": None, "i": 7, "z": 0, "f": 2.5,
    "yes": True, "no": False, "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"b": 1, "a": "x", "C": None},
    "m": [{"role": "user", "content": "hi", "n": 2}, {"role": "assistant", "content": "yo", "n": 1},
          {"role": "user", "content": "bye", "n": 3}],
    "q": "it's \"q\" \\ \n\u00e9\u4f60\U0001f600", "deep": {"a": [1, {"b": [], "c": {}}], "t": True},
    "items_like": {"items": 5, "get": 6}, "big": 12345678901, "small": 1e-7,
}
expressions = (here / "expressions.txt").read_text(encoding="utf-8").split("\n----\n")
write("expressions.json", [vector(f"expression {i}: {e[:60]}", e, values)
                           for i, e in enumerate(expressions)])

tools = [{"type": "function", "function": {
    "name": "get_weather", "description": "The weather <now> & later in a \"place\".",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Z\u00fcrich, \u6771\u4eac"},
        "days": {"type": "integer", "enum": [1, 2]}}, "required": ["city"]}}}]
system = {"role": "system", "content": "You are terse.\n"}
user = {"role": "user", "content": " What's up? <tag> "}
answer = {"role": "assistant", "content": "Not much. \u00e9\u4f60 "}
call = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "abc123def", "type": "function",
     "function": {"name": "get_weather", "arguments": {"city": "Z\u00fcrich", "days": 2}}}]}
result = {"role": "tool", "name": "get_weather", "tool_call_id": "abc123def",
          "content": "{\"t\": 21.5}"}
thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
chats = {
    "one": [user], "system": [system, user], "turns": [system, user, answer, user],
    "no_system": [user, answer, user], "tools": [system, user, call, result, answer, user],
    "call": [user, call, result], "thought": [user, thought, user], "wrong": [answer, answer],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    "empty": [],
}
vectors = []
for path in sorted(here.glob("*.jinja")):
    for name, messages in chats.items():
        for with_tools in (False, True):
            for prompt in (False, True):
                if with_tools and name not in ("one", "system", "tools", "call"):
                    continue
                variables = {"messages": messages, "add_generation_prompt": prompt,
                             "bos_token": "<s>", "eos_token": "</s>"}
                if with_tools:
                    variables["tools"] = tools
                made = vector(f"{path.stem} {name} {with_tools} {prompt}",
                              path.read_text(encoding="utf-8"), variables)
                del made["template"]
                vectors.append({**made, "file": path.stem})
write("chats.json", vectors)
