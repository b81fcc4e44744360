"""Sends one request by libcurl and prints a line of JSON for each response head, the interim ones too."""

import argparse
import io
import json

from curl_cffi import Curl, CurlOpt
from curl_cffi.const import CurlHttpVersion

VERSIONS = {
    "http/1.1": CurlHttpVersion.V1_1,
    "h2": CurlHttpVersion.V2_0,
    "h3": CurlHttpVersion.V3ONLY,
}


def main():
    options = arguments()
    lines = []
    curl = Curl()
    curl.setopt(CurlOpt.URL, options.url.encode())
    curl.setopt(CurlOpt.RESOLVE, [options.resolve])
    curl.setopt(CurlOpt.CAINFO, options.ca.encode())
    curl.setopt(CurlOpt.HTTP_VERSION, VERSIONS[options.version])
    curl.setopt(CurlOpt.HTTPHEADER, [line.encode() for line in options.header])
    curl.setopt(CurlOpt.TIMEOUT_MS, 20_000)
    curl.setopt(CurlOpt.WRITEDATA, io.BytesIO())
    curl.setopt(CurlOpt.HEADERFUNCTION, lambda line: lines.append(bytes(line)) or len(line))
    if options.post:
        curl.setopt(CurlOpt.POSTFIELDS, bytes(options.post))
        curl.setopt(CurlOpt.POSTFIELDSIZE, options.post)
    curl.perform()
    head = None
    for line in (line.decode().rstrip("\r\n") for line in lines):
        if line.startswith("HTTP/"):
            head = {"status": int(line.split(" ")[1]), "headers": []}
        elif line and head:
            name, value = line.split(":", 1)
            head["headers"].append([name.lower(), value.strip()])
        elif head:
            print(json.dumps(head), flush=True)
            head = None


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ca", required=True, help="PEM file of the certificate to trust")
    parser.add_argument("--resolve", required=True, help="HOST:PORT:ADDRESS")
    parser.add_argument("--version", choices=VERSIONS, required=True)
    parser.add_argument("--header", action="append", default=[], help="NAME: VALUE")
    parser.add_argument("--post", type=int, default=0, help="bytes of a body")
    parser.add_argument("url")
    return parser.parse_args()


main()
