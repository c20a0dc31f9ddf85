#!/usr/bin/env python3
"""How phalanx serve ends, and what its clients are told: asked to, or because a rank dies, stalls or
disagrees. Only what Python brings along.

server_ends_test.py PHALANX RANKS MPIRUN...
PHX_STALLING in the environment names phalanx, linked with stalling.c.
"""
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import unittest

from server_test import DEMO, HERE, LAUNCHER, LONG, MPIRUN, PHALANX, RANKS, SLOW, Server

STALLING = os.environ["PHX_STALLING"]


class Client(threading.Thread):
    """One that waits for a long text; its answer is whole when the thread has ended."""

    def __init__(self, server, stream):
        super().__init__()
        self.connection = server.connect()
        self.connection.request("POST", "/v1/completions", json.dumps({**LONG, "stream": stream}))
        self.stream, self.status, self.text, self.error = stream, 0, b"", None
        self.response = self.connection.getresponse() if stream else None
        if stream:
            self.text = self.response.read(20)  # it is under way
        self.start()

    def run(self):
        try:
            self.response = self.response or self.connection.getresponse()
            self.status = self.response.status
            self.text += self.response.read()
        except (http.client.HTTPException, OSError) as error:
            self.error = error

    def problem(self):
        """The error object that it was told."""
        assert self.error is None, (self.error, getattr(self.error, "partial", b"")[-300:])
        text = self.text
        if self.stream:
            assert self.status == 200 and text.endswith(b"\n\ndata: [DONE]\n\n"), text[-300:]
            text = text.split(b"\n\n")[-3].removeprefix(b"data: ")
        else:
            assert self.status >= 500, (self.status, text[:300])
        error = json.loads(text)["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        return error


class Test(unittest.TestCase):
    def gone(self, server):
        deadline = time.time() + 5 * SLOW
        while left := subprocess.run(["pgrep", "-f", server.folder.name], capture_output=True).stdout:
            self.assertLess(time.time(), deadline, left)
            time.sleep(0.05)

    def told(self, server, cause, seconds):
        """What `cause` does ends the job so soon; whoever waits is told why. Returns that."""
        clients = [Client(server, stream) for stream in (True, False)]
        begun = time.time()
        cause()
        for client in clients:
            client.join()
        self.assertNotEqual(server.process.wait(60 * SLOW), 0)
        self.assertLess(time.time() - begun, seconds * SLOW)
        self.gone(server)
        try:
            problems = [client.problem() for client in clients]
        except AssertionError:
            print(server.text()[-3000:])
            raise
        self.assertEqual([p["code"] for p in problems], ["server_stopping"] * 2)
        return problems[0]["message"]


class Ends(Test):
    def test_drains(self):
        """What is under way is finished, nothing new is taken, the end is orderly."""
        server = Server("--shutdown-timeout", str(60 * SLOW))
        client = Client(server, True)
        os.kill(server.pid, signal.SIGTERM)
        client.join()
        self.assertEqual(client.text[-14:], b"data: [DONE]\n\n")
        self.assertFalse(b"error" in client.text)
        self.assertEqual(server.process.wait(20 * SLOW), 0)
        self.gone(server)

    def test_drains_by_usr1(self):
        server = Server()
        server.process.send_signal(signal.SIGUSR1)  # mpirun's, where there is one
        self.assertEqual(server.process.wait(20 * SLOW), 0)
        self.gone(server)

    def test_timeout(self):
        """What is not finished in time is ended with an error."""
        server = Server("--shutdown-timeout", "0")
        clients = [Client(server, stream) for stream in (True, False)]
        os.kill(server.pid, signal.SIGTERM)
        for client in clients:
            client.join()
            self.assertEqual(client.problem()["code"], "server_stopping")
        self.assertEqual(server.process.wait(20 * SLOW), 0)

    def test_twice(self):
        server = Server()

        def stop():
            os.kill(server.pid, signal.SIGTERM)
            time.sleep(0.1)
            os.kill(server.pid, signal.SIGTERM)

        self.told(server, stop, 5)


class Script(Test):
    """launch/serve.sh, as a service manager starts it."""
    COMMAND = [HERE + "/../../launch/serve.sh", str(RANKS)]
    ENVIRONMENT = {"PHALANX": PHALANX, "MPIRUN": " ".join(MPIRUN)}

    def start(self, *arguments):
        return Server(*arguments, command=self.COMMAND, environment=self.ENVIRONMENT)

    def test_drains(self):
        server = self.start("--shutdown-timeout", str(60 * SLOW))
        client = Client(server, True)
        server.process.terminate()
        client.join()
        self.assertEqual(client.text[-14:], b"data: [DONE]\n\n")
        self.assertFalse(b"error" in client.text)
        self.assertEqual(server.process.wait(20 * SLOW), 0)
        self.gone(server)

    def test_twice(self):
        server = self.start("--shutdown-timeout", "60")

        def stop():
            server.process.terminate()
            time.sleep(0.3)
            server.process.terminate()

        self.told(server, stop, 5)

    def test_fails(self):
        """Its exit status is the server's; what it cannot pass on it refuses."""
        for arguments, words in ((["-m", "/nowhere"], "/nowhere"), (["--pid-file", "x"], "--pid-file")):
            script = subprocess.run([*self.COMMAND, *arguments], env={**os.environ, **self.ENVIRONMENT},
                                    capture_output=True, text=True)
            self.assertNotEqual(script.returncode, 0)
            self.assertIn(words, script.stderr)


def stalling(order, *arguments, **more):
    """A server, one of whose ranks does what stalling.c says."""
    environment = {"PHX_TEST_STALL": order}
    if RANKS == 1:
        environment["OMPI_COMM_WORLD_RANK"] = "0"
    return Server("-m", DEMO, *arguments,
                  command=[*LAUNCHER, STALLING, "serve"], environment=environment, **more)


class Health(Test):
    def kill(self, server):
        server.process.kill()  # its ranks die with it
        server.process.wait()
        self.gone(server)

    def test_loading(self):
        server = stalling("0 hang start 0", state="loading")
        status, answer = server.call("/health")
        self.assertEqual((status, answer["status"]), (503, "loading"))
        self.assertIn("loaded", answer["reason"])
        status, answer = server.call("/v1/completions", {"prompt": "a"})
        self.assertEqual((status, answer["error"]["type"]), (503, "server_error"))
        self.assertEqual(server.call("/v1/models")[0], 200)
        self.kill(server)

    @unittest.skipIf(RANKS > 1, "the watchdog ends such a job")
    def test_stuck(self):
        """Work, and a step that does not end: by and by it is not healthy; who waits for a stream
        gets a sign of life."""
        server = stalling("0 hang attention 10", "--watchdog-timeout", "1")
        self.assertEqual(server.call("/health"), (200, {"status": "ok"}))
        client = Client(server, False)
        begun = time.time()
        while (answer := server.call("/health"))[0] == 200:
            self.assertLess(time.time() - begun, 20 * SLOW)
            time.sleep(0.05)
        self.assertGreaterEqual(time.time() - begun, 1)
        self.assertEqual((answer[0], answer[1]["status"]), (503, "stuck"))
        self.assertGreater(answer[1]["seconds"], 1)
        stream = server.connect()
        stream.request("POST", "/v1/completions", json.dumps(LONG))
        self.assertEqual(stream.getresponse().readline(), b": still here\n")
        self.kill(server)
        client.join()

    def test_idle(self):
        """Nothing to do for longer than the time-out is healthy."""
        server = Server("--watchdog-timeout", "1")
        server.complete(prompt="JULIET:", max_tokens=2)
        time.sleep(1.5)
        self.assertEqual(server.call("/health"), (200, {"status": "ok"}))
        self.assertEqual(server.end(), 0)


class Fails(Test):
    def test_step(self):
        """Rank 0 itself cannot go on: its sentence is what is told."""
        server = stalling("0 lie announce 100")
        message = self.told(server, lambda: None, 30 + 5)
        self.assertEqual(message, "the record was not sent, as asked for")


@unittest.skipIf(RANKS == 1, "one rank")
class Failures(Test):
    def rank(self, server, number):
        """The process of a rank; that of rank 0 is known."""
        found = subprocess.run(["pgrep", "-f", f"^{PHALANX}.*{server.pid_file}"],
                               capture_output=True, text=True).stdout.split()
        others = [int(p) for p in found if int(p) != server.pid]
        return server.pid if number == 0 else others[number - 1]

    def test_dies(self):
        server = Server()
        message = self.told(server, lambda: os.kill(self.rank(server, 1), signal.SIGKILL), 5)
        self.assertIn("a rank has died", message)

    def test_mpirun_is_stopped(self):
        server = Server()
        self.told(server, server.process.terminate, 5)

    def test_is_stopped(self):
        for number in (1, 0):
            with self.subTest(rank=number):
                server = Server("--watchdog-timeout", "2")
                message = self.told(
                    server, lambda: os.kill(self.rank(server, number), signal.SIGSTOP), 2 + 10)
                if number == 1:
                    self.assertIn("rank 1 does not run (is it stopped?)", message)

    def test_hangs(self):
        """In the midst of a step: the sentence says who and where."""
        for order, sentence in (("1 hang attention 402", "rank 1 runs and is missing in the sum"),
                                ("0 hang mlp 402", "rank 0 runs and is missing in the sum")):
            with self.subTest(order):
                server = stalling(order, "--watchdog-timeout", "2")
                self.assertIn(sentence, self.told(server, lambda: None, 30 + 2 + 10))

    def test_disagrees(self):
        for order in ("1 lie pick 100", "0 lie pick 100"):
            with self.subTest(order):
                server = stalling(order)
                self.told(server, lambda: None, 30 + 5)
                self.assertIn("the ranks do not compute the same sums", server.text())


if __name__ == "__main__":
    unittest.main(warnings="ignore", argv=[sys.argv[0], *os.environ.get("PHX_TEST", "").split()])
