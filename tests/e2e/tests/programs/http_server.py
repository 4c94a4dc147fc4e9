# An HTTP server with a memory: every GET is answered by its identity, drawn at the start, and the number of the answer.
import http.server
import itertools
import os
import signal
import sys

identity, numbers = os.urandom(8).hex(), itertools.count(1)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{identity} {next(numbers)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        print("answered", self.path, flush=True)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
