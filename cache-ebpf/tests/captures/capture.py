"""Captures the first datagrams of real HTTP/3 clients on loopback.

Usage: capture.py CLIENT OUT.pcap, CLIENT one of aioquic, curl, chromium. Needs root (tcpdump),
`pip install aioquic curl_cffi`, and Debian's tcpdump and chromium.

The server is aioquic's, with its connection ids replaced by popcache's: key id 1, shard 0, the key
000102..0f. So the captures show how each client sends our ids back.
"""

import asyncio, base64, datetime, hashlib, os, signal, ssl, struct, subprocess, sys, tempfile

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic import connection
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

PORT = 4433
NAME = "edge.test"
KEPT = 8
MASK = 2**64 - 1


def siphash13(key, message):
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotl(x, n):
        return (x << n | x >> 64 - n) & MASK

    def sip_round():
        v[0] = v[0] + v[1] & MASK; v[2] = v[2] + v[3] & MASK
        v[1] = rotl(v[1], 13) ^ v[0]; v[3] = rotl(v[3], 16) ^ v[2]; v[0] = rotl(v[0], 32)
        v[2] = v[2] + v[1] & MASK; v[0] = v[0] + v[3] & MASK
        v[1] = rotl(v[1], 17) ^ v[2]; v[3] = rotl(v[3], 21) ^ v[0]; v[2] = rotl(v[2], 32)

    for block in (struct.unpack("<Q", message)[0], 8 << 56):
        v[3] ^= block
        sip_round()
        v[0] ^= block
    v[2] ^= 0xFF
    for _ in range(3):
        sip_round()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def sealed():
    signed = bytes([1, 0]) + os.urandom(6)
    return signed + struct.pack("<Q", siphash13(bytes(range(16)), signed))[:4]


class Os:
    """The connection module's `os`: twelve random bytes are a connection id."""

    @staticmethod
    def urandom(size):
        return sealed() if size == 12 else os.urandom(size)


class Server(QuicConnectionProtocol):
    h3 = None

    def quic_event_received(self, event):
        if self.h3 is None:
            self.h3 = H3Connection(self._quic)
        for e in self.h3.handle_event(event):
            if isinstance(e, HeadersReceived):
                self.h3.send_headers(e.stream_id, [(b":status", b"200"), (b"content-length", b"4")])
                self.h3.send_data(e.stream_id, b"pop\n", True)
                self.transmit()


def certificate(directory):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), False)
        .sign(key, hashes.SHA256())
    )
    pem, private = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    open(pem, "wb").write(cert.public_bytes(serialization.Encoding.PEM))
    open(private, "wb").write(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem, private, base64.b64encode(hashlib.sha256(spki).digest()).decode()


async def aioquic_client():
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE, server_name=NAME)
    async with connect("127.0.0.1", PORT, configuration=configuration, create_protocol=Server) as client:
        client.h3 = H3Connection(client._quic)
        client.h3.send_headers(client._quic.get_next_available_stream_id(), [
            (b":method", b"GET"), (b":scheme", b"https"), (b":authority", NAME.encode()), (b":path", b"/")], True)
        client.transmit()
        await asyncio.sleep(1)


def curl_client():
    from curl_cffi import requests
    url = f"https://{NAME}:{PORT}/"
    response = requests.get(url, http_version="v3only", verify=False, curl_options={
        10203: [f"{NAME}:{PORT}:127.0.0.1"]})
    print(response.status_code, response.content)


async def chromium_client(spki, profile):
    process = await asyncio.create_subprocess_exec(
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
        f"--host-resolver-rules=MAP {NAME} 127.0.0.1", f"--origin-to-force-quic-on={NAME}:{PORT}",
        f"--ignore-certificate-errors-spki-list={spki}", "--dump-dom", f"https://{NAME}:{PORT}/",
        stderr=asyncio.subprocess.DEVNULL)
    try:
        await asyncio.wait_for(process.wait(), 40)
    except asyncio.TimeoutError:
        process.kill()


async def main(client, out):
    connection.os = Os
    with tempfile.TemporaryDirectory() as directory:
        pem, private, spki = certificate(directory)
        configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN, connection_id_length=12)
        configuration.load_cert_chain(pem, private)
        await serve("127.0.0.1", PORT, configuration=configuration, create_protocol=Server)
        dump = subprocess.Popen(["tcpdump", "-q", "-i", "lo", "-Z", "root", "-U", "-c", str(KEPT), "-w", out,
                                 f"udp dst port {PORT}"])
        await asyncio.sleep(1)
        if client == "aioquic":
            await aioquic_client()
        elif client == "curl":
            await asyncio.to_thread(curl_client)
        else:
            await chromium_client(spki, os.path.join(directory, "profile"))
        await asyncio.sleep(1)
        dump.send_signal(signal.SIGINT)
        dump.wait()


asyncio.run(main(*sys.argv[1:]))
