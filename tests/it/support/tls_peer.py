"""The far end of TLS, by another implementation (OpenSSL through Python's ssl).

client PORT CA NAME CERT KEY WHAT    CERT and KEY may be -
server CERT KEY CLIENT_CA            CLIENT_CA may be -; prints its port, then echoes to all who come
"""
import socket
import ssl
import sys
import threading

CLASSES = (ssl.SSLError, ConnectionError)


def client(port, ca, name, cert, key, what):
    context = ssl.create_default_context(cafile=ca)
    if cert != "-":
        context.load_cert_chain(cert, key)
    raw = socket.create_connection(("127.0.0.1", int(port)))
    raw.settimeout(30)
    peer = context.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=False)
    if what == "hold":
        print(peer.version(), peer.getpeercert()["serialNumber"], flush=True)
        for line in sys.stdin:
            peer.sendall(line.encode())
            print(peer.recv(1000).decode().strip(), flush=True)
        return
    if what == "wait":
        while peer.recv(1000):
            print("bytes", flush=True)
        print("end", flush=True)
        return
    peer.sendall(b"hello")
    answer = b""
    while len(answer) < 5:
        part = peer.recv(5)
        if not part:
            raise ConnectionError("no answer")
        answer += part
    print(answer.decode(), peer.version(), flush=True)
    if what == "talk":
        # Says its end and waits for the other.
        peer.unwrap()
        print("closed", flush=True)


def server(cert, key, client_ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if client_ca != "-":
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def serve(raw):
        try:
            peer = context.wrap_socket(raw, server_side=True)
            while data := peer.recv(1 << 16):
                peer.sendall(data)
            peer.unwrap()
        except (OSError, ValueError):
            raw.close()

    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


try:
    {"client": client, "server": server}[sys.argv[1]](*sys.argv[2:])
except CLASSES as error:
    print(type(error).__name__, getattr(error, "reason", None) or error, flush=True)
    sys.exit(1)
