"""An origin over TLS that asks for a client certificate, and says in its answers whose it was."""

import argparse
import http.server
import ssl


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        subject = self.connection.getpeercert()["subject"]
        names = [value for part in subject for kind, value in part if kind == "commonName"]
        body = ", ".join(names).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=60")
        self.end_headers()
        self.wfile.write(body)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="ADDRESS:PORT")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--clients", required=True, help="PEM file of the authority of clients")
    options = parser.parse_args()
    address, port = options.listen.rsplit(":", 1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=options.clients)
    context.load_cert_chain(options.certificate, options.key)
    context.verify_mode = ssl.CERT_REQUIRED
    server = http.server.ThreadingHTTPServer((address, int(port)), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print("ready", flush=True)
    server.serve_forever()


main()
