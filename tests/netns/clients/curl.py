"""Fetches URLs with libcurl over one version of HTTP; prints one line of JSON for each.

A line holds `status`, `http_version`, `headers`, `length`, `sha256` and, with --save, `body_file`;
or `error` where no whole response came.
"""

import argparse
import hashlib
import json
import pathlib
import time

from curl_cffi import CurlOpt, requests
from curl_cffi.const import CurlHttpVersion

VERSIONS = {
    CurlHttpVersion.V1_1: "http/1.1",
    CurlHttpVersion.V2_0: "h2",
    CurlHttpVersion.V3: "h3",
    CurlHttpVersion.V3ONLY: "h3",
}


def main():
    options = arguments()
    # One session: the URLs share a connection.
    with requests.Session(
        verify=options.ca,
        http_version=options.version,
        timeout=options.timeout,
        curl_options={CurlOpt.RESOLVE: [options.resolve]},
    ) as session:
        for number, url in enumerate(options.url):
            time.sleep(options.pause if number else 0)
            print(json.dumps(fetch(session, options, url, number)), flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ca", required=True, help="PEM file of the certificate to trust")
    parser.add_argument("--resolve", required=True, help="HOST:PORT:ADDRESS")
    parser.add_argument("--version", choices=["v1", "v2", "v3only"], default="v3only")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--header", action="append", default=[], help="NAME: VALUE")
    parser.add_argument("--save", type=pathlib.Path, help="folder for the bodies")
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0, help="seconds between two URLs")
    parser.add_argument("url", nargs="+")
    return parser.parse_args()


def fetch(session, options, url, number):
    headers = dict(line.split(": ", 1) for line in options.header)
    try:
        response = session.request(options.method, url, headers=headers, allow_redirects=False)
    except requests.exceptions.RequestException as error:
        return {"url": url, "error": str(error)}
    found = {
        "url": url,
        "status": response.status_code,
        "http_version": VERSIONS.get(response.http_version, str(response.http_version)),
        "headers": [[name.lower(), value] for name, value in response.headers.multi_items()],
        "length": len(response.content),
        "sha256": hashlib.sha256(response.content).hexdigest(),
    }
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        file = options.save / f"body-{number}"
        file.write_bytes(response.content)
        found["body_file"] = str(file)
    return found


main()
