#!/usr/bin/env python3
"""Load for a server of the OpenAI API, and how it bears it. Only what Python brings along.

  bench_serve.py --base-url http://127.0.0.1:8080 --num-prompts 200 --request-rate 10
  bench_serve.py --base-url http://127.0.0.1:8080 --max-concurrency 64 --seconds 120

Streams completions of random token ids; requests arrive as a Poisson process of --request-rate a
second (inf: at once), at most --max-concurrency at the same time. The results have the names that
vLLM's benchmark gives them. Exit status 1 if a request failed.
"""
import argparse
import asyncio
import json
import random
import ssl
import statistics
import sys
import time
import urllib.parse


class Sample:
    """One request: when its tokens came."""

    def __init__(self):
        self.begun = time.perf_counter()
        self.times = []  # of chunks with text
        self.n_new = 0
        self.error = None


def parse():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--base-url", default="http://127.0.0.1:8080")
    p.add_argument("--api-key")
    p.add_argument("--num-prompts", type=int, help="requests in all (default: 100)")
    p.add_argument("--seconds", type=float, help="begin requests for so long instead")
    p.add_argument("--request-rate", type=float, default=float("inf"), help="a second (default: inf)")
    p.add_argument("--max-concurrency", type=int, default=1 << 30)
    p.add_argument("--random-input-len", type=int, default=64)
    p.add_argument("--random-output-len", type=int, default=64)
    p.add_argument("--random-range-ratio", type=float, default=0.0,
                   help="lengths vary by so much of themselves, both ways")
    p.add_argument("--random-ids", default="100,1000", help="token ids are drawn from LOW,HIGH")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", action="store_true", help="results as one JSON object")
    return p.parse_args()


def vary(rng, length, ratio):
    return max(1, round(length * rng.uniform(1 - ratio, 1 + ratio)))


def make_body(rng, options):
    low, high = map(int, options.random_ids.split(","))
    n_in = vary(rng, options.random_input_len, options.random_range_ratio)
    n_out = vary(rng, options.random_output_len, options.random_range_ratio)
    return n_in, {"prompt": [rng.randrange(low, high) for _ in range(n_in)], "max_tokens": n_out,
                  "temperature": 0, "ignore_eos": True, "stream": True,
                  "stream_options": {"include_usage": True}}


async def ask(options, body, sample):
    url = urllib.parse.urlsplit(options.base_url)
    tls = ssl.create_default_context() if url.scheme == "https" else None
    reader, writer = await asyncio.open_connection(url.hostname, url.port or (443 if tls else 80),
                                                   ssl=tls)
    data = json.dumps(body).encode()
    key = f"Authorization: Bearer {options.api_key}\r\n" if options.api_key else ""
    writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: {url.netloc}\r\n{key}Connection: close\r\n"
                 f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() +
                 data)
    try:
        status = (await reader.readline()).decode()
        if " 200 " not in status:
            raise RuntimeError(status.strip() + " " + (await reader.read(2000)).decode("utf-8", "replace"))
        done = False
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(event["error"]["message"])
                if event.get("usage"):
                    sample.n_new = event["usage"]["completion_tokens"]
                elif event["choices"] and event["choices"][0]["text"]:
                    sample.times.append(time.perf_counter())
        if not done:
            raise RuntimeError("the stream ended without [DONE]")
    finally:
        writer.close()


async def one(options, body, sample):
    try:
        await ask(options, body, sample)
    except Exception as error:  # whatever it is, it is a request that failed
        sample.error = f"{type(error).__name__}: {error}"


async def load(options):
    rng = random.Random(options.seed)
    samples, tasks, n_input = [], set(), 0
    room = asyncio.Semaphore(min(options.max_concurrency, 1 << 20))
    begun = time.perf_counter()
    n = options.num_prompts or (None if options.seconds else 100)

    async def run(body):
        sample = Sample()
        samples.append(sample)
        try:
            await one(options, body, sample)
        finally:
            room.release()

    while (n is None or len(tasks) < n) and \
            (options.seconds is None or time.perf_counter() - begun < options.seconds):
        await room.acquire()
        n_in, body = make_body(rng, options)
        n_input += n_in
        tasks.add(asyncio.create_task(run(body)))
        await asyncio.sleep(rng.expovariate(options.request_rate)
                            if options.request_rate != float("inf") else 0)
    await asyncio.gather(*tasks)
    return samples, n_input, time.perf_counter() - begun


def spread(results, name, values):
    ms = sorted(1e3 * v for v in values) or [0.0]
    results[f"mean_{name}_ms"] = statistics.fmean(ms)
    results[f"median_{name}_ms"] = statistics.median(ms)
    results[f"std_{name}_ms"] = statistics.pstdev(ms)
    results[f"p99_{name}_ms"] = ms[min(len(ms) - 1, int(0.99 * len(ms)))]


def summarise(samples, n_input, duration):
    good = [s for s in samples if s.error is None]
    n_output = sum(s.n_new for s in good)
    results = {"duration": duration, "completed": len(good), "failed": len(samples) - len(good),
               "total_input_tokens": n_input, "total_output_tokens": n_output,
               "request_throughput": len(good) / duration,
               "output_throughput": n_output / duration,
               "total_token_throughput": (n_input + n_output) / duration}
    told = [s for s in good if s.times]
    spread(results, "ttft", [s.times[0] - s.begun for s in told])
    spread(results, "tpot", [(s.times[-1] - s.times[0]) / (s.n_new - 1) for s in told if s.n_new > 1])
    spread(results, "itl", [b - a for s in told for a, b in zip(s.times, s.times[1:])])
    spread(results, "e2el", [s.times[-1] - s.begun for s in told])
    return results


def main():
    options = parse()
    samples, n_input, duration = asyncio.run(load(options))
    results = summarise(samples, n_input, duration)
    if options.json:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name:24} {value:.2f}" if isinstance(value, float) else f"{name:24} {value}")
    for error in sorted({s.error for s in samples if s.error})[:5]:
        print("failed:", error, file=sys.stderr)
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
