"""The chat's own backend: serves the page, and puts every message into the partitions of both who share it.

Only the standard library. Usage: server.py [PORT [KALAMDB_URL]]; the service's password comes from CHAT_SERVICE_PASSWORD.
"""

import base64
import http.server
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8090
KALAMDB = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8080"
PASSWORD = os.environ.get("CHAT_SERVICE_PASSWORD", "the postman rings twice")
SERVICE = "Basic " + base64.b64encode(f"post:{PASSWORD}".encode()).decode()
PAGE = pathlib.Path(__file__).with_name("index.html")


def call(path, authorization, body=None):
    """Asks KalamDB; returns its answer, or raises urllib.error.HTTPError."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": authorization, "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(KALAMDB + path, data, headers), timeout=10) as answer:
        return json.load(answer)


def deliver(owner, peer, message):
    """Puts a message into one user's partition. Doing it twice changes nothing: the key is the message's."""
    quoted = owner.replace("'", "''")
    sql = f"EXECUTE AS USER '{quoted}' (INSERT INTO chat.messages (id, peer, sender, body) VALUES ($1, $2, $3, $4))"
    params = [message["id"], peer, message["sender"], message["body"]]
    try:
        call("/api/sql", SERVICE, {"sql": sql, "params": params})
    except urllib.error.HTTPError as error:
        if json.load(error)["error"]["code"] != "UNIQUE_VIOLATION":
            raise


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.split("?")[0] != "/":
            return self.answer(404, "text/plain", b"nothing here")
        page = PAGE.read_text().replace("{{KALAMDB}}", KALAMDB)
        self.answer(200, "text/html; charset=utf-8", page.encode())

    def do_POST(self):
        """/send: {"to", "body"}, with the sender's own token."""
        try:
            asked = json.loads(self.rfile.read(min(int(self.headers["Content-Length"]), 65536)))
            # KalamDB says whose token it is; what the page claims does not matter.
            sender = call("/api/auth/me", self.headers["Authorization"])["user"]["user_id"]
            message = {"id": time.time_ns() // 1000, "sender": sender, "body": str(asked["body"])}
            deliver(sender, asked["to"], message)
            deliver(asked["to"], sender, message)
            self.answer(200, "application/json", b"{}")
        except urllib.error.HTTPError as error:
            self.answer(error.code, "application/json", error.read() or b"{}")
        except (KeyError, TypeError, ValueError):
            self.answer(400, "application/json", b'{"error":"a message has a recipient and a body"}')

    def answer(self, status, content_type, body):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        print(f"the chat is at http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
