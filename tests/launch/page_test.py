#!/usr/bin/env python3
"""The server's page in a headless Chromium: send, see tokens stream, stop, see the numbers move.

page_test.py PHALANX RANKS MPIRUN... [with PHX_SCREENSHOT=FILE.png: keep a picture]
Exit status 77: there is no chromedriver.
"""
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

from server_test import SLOW, TEMPLATE, Server, post

CANCELLED = 'phalanx:request_success_total{model_name="demo",finished_reason="cancelled"}'


class Browser:
    """The few calls of WebDriver that are needed."""

    def __init__(self, driver):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.process = subprocess.Popen([driver, f"--port={self.port}"], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu",
                            "--disable-dev-shm-usage", "--window-size=900,760"]}
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options,
                                        "goog:loggingPrefs": {"browser": "ALL"}}}
        deadline = time.time() + 60 * SLOW
        self.session = ""
        while not self.session:
            try:
                answer = self.call("POST", "/session", {"capabilities": capabilities})
                self.session = "/session/" + answer["sessionId"]
            except OSError:
                assert time.time() < deadline, "chromedriver does not answer"
                time.sleep(0.2)

    def call(self, method, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method,
                                         data=json.dumps(body or {}).encode() if method == "POST" else None)
        with urllib.request.urlopen(request, timeout=120 * SLOW) as response:
            return json.loads(response.read())["value"]

    def open(self, url):
        self.call("POST", self.session + "/url", {"url": url})

    def run(self, script):
        return self.call("POST", self.session + "/execute/sync", {"script": script, "args": []})

    def keys(self, keys):
        """To whatever has the focus: as a person with a keyboard only."""
        element = self.call("GET", self.session + "/element/active")
        path = f"{self.session}/element/{next(iter(element.values()))}/value"
        self.call("POST", path, {"text": keys})

    def until(self, script, what):
        deadline = time.time() + 60 * SLOW
        while not self.run("return " + script):
            if time.time() > deadline:
                raise AssertionError("not seen: " + what + "\n" + self.run("return document.body.innerText"))
            time.sleep(0.05)

    def errors(self):
        return [e for e in self.call("POST", self.session + "/se/log", {"type": "browser"})
                if e["level"] == "SEVERE"]

    def picture(self, file):
        with open(file, "wb") as out:
            out.write(base64.b64decode(self.call("GET", self.session + "/screenshot")))

    def close(self):
        if self.session:
            self.call("DELETE", self.session)
        self.process.terminate()
        self.process.wait()


def load(server):
    """A request that keeps the server busy until its socket is closed."""
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(post({"prompt": "The king", "max_tokens": 500, "n": 12, "ignore_eos": True}))
    return s


def check(browser, server):
    browser.open(f"http://127.0.0.1:{server.port}/")
    browser.until("document.title === 'demo'", "the model's name")
    browser.until("document.getElementById('kv').textContent.includes('%')", "numbers")
    assert browser.run("return document.activeElement.id") == "prompt"

    # The numbers move: for a second at a time, which a busy machine may miss.
    browser.run("""window.rates = [];
        new MutationObserver(() => rates.push(Number(document.getElementById('rate').textContent)))
            .observe(document.getElementById('rate'), {childList: true})""")

    # An answer, whole.
    browser.run("document.getElementById('length').value = 40")
    browser.keys("To be, or not to be?\ue007")
    browser.until("document.querySelectorAll('article.assistant').length === 1", "an answer")
    browser.until("document.querySelector('article.assistant p').textContent.length > 5", "its text")
    browser.until("!document.getElementById('send').disabled", "its end")
    assert "complete" in browser.run("return document.getElementById('status').textContent")
    assert "tok/s" in browser.run("return document.querySelector('article.assistant small').textContent")

    browser.until("window.rates.some(r => r > 0)", "the rate")

    # A long one beside others, which make it slow, stopped while its text grows.
    others = [load(server) for _ in range(4)]
    browser.run("document.getElementById('length').value = 380")
    browser.keys("Speak on.\ue007")
    browser.until("document.querySelectorAll('article.assistant').length === 2", "a second answer")
    text = "document.querySelectorAll('article.assistant')[1].querySelector('p').textContent"
    browser.until(text + ".length > 100", "its beginning")
    browser.until("Number(document.getElementById('running').textContent) > 1", "who runs")
    if "PHX_SCREENSHOT" in os.environ:
        browser.picture(os.environ["PHX_SCREENSHOT"])
    browser.run("document.getElementById('stop').focus()")
    browser.keys("\ue007")
    browser.until("document.getElementById('status').textContent === 'Stopped'", "the stop")
    deadline = time.time() + 10 * SLOW
    while server.metrics()[CANCELLED] != 1:
        assert time.time() < deadline, "the stopped answer goes on"
        time.sleep(0.02)
    for other in others:
        other.close()
    server.wait_idle()

    # What goes wrong is shown.
    browser.run("document.getElementById('length').value = 100000")
    browser.run("document.getElementById('prompt').focus()")
    browser.keys("More.\ue007")
    browser.until("document.querySelector('article.error') !== null", "an error")
    assert "max_tokens" in browser.run("return document.querySelector('article.error p').textContent")

    # Every control has a name.
    unnamed = browser.run("""return [...document.querySelectorAll('input, textarea')]
        .filter(e => e.labels.length === 0).length +
        [...document.querySelectorAll('button')].filter(e => !e.textContent.trim()).length""")
    assert unnamed == 0
    outside = browser.run("return performance.getEntriesByType('resource')"
                          ".filter(e => !e.name.startsWith(location.origin)).length")
    assert outside == 0


def main():
    driver = shutil.which("chromedriver")
    if driver is None:
        print("skipped: there is no chromedriver")
        return 77
    server = Server("--chat-template", TEMPLATE)
    browser = None
    try:
        browser = Browser(driver)
        check(browser, server)
        unexpected = [e for e in browser.errors() if "400" not in e["message"]]
        assert not unexpected, unexpected
    finally:
        if browser is not None:
            browser.close()
        assert server.end() == 0
    print("the page does what it should")
    return 0


if __name__ == "__main__":
    sys.exit(main())
