"""Proxies that make connections for others: socks5 or http, with a user and password or without.

KIND USER PASSWORD REFUSE     prints its port; USER may be -; REFUSE may be - or what it answers
"""
import base64
import socket
import sys
import threading

kind, user, password, refuse = sys.argv[1:]


def exact(stream, count):
    data = b""
    while len(data) < count:
        part = stream.recv(count - len(data))
        if not part:
            raise OSError("ended")
        data += part
    return data


def socks5(stream):
    _, count = exact(stream, 2)
    methods = exact(stream, count)
    wanted = 2 if user != "-" else 0
    if wanted not in methods:
        stream.sendall(b"\x05\xff")
        raise OSError("no method")
    stream.sendall(bytes([5, wanted]))
    if wanted == 2:
        exact(stream, 1)
        given = [exact(stream, exact(stream, 1)[0]).decode() for _ in range(2)]
        stream.sendall(b"\x01\x00" if given == [user, password] else b"\x01\x01")
        if given != [user, password]:
            raise OSError("login")
    _, _, _, kind_of_address = exact(stream, 4)
    if kind_of_address == 3:
        host = exact(stream, exact(stream, 1)[0]).decode()
    else:
        family, size = (socket.AF_INET, 4) if kind_of_address == 1 else (socket.AF_INET6, 16)
        host = socket.inet_ntop(family, exact(stream, size))
    port = int.from_bytes(exact(stream, 2), "big")
    if refuse != "-":
        stream.sendall(bytes([5, int(refuse), 0, 1]) + bytes(6))
        raise OSError("refused")
    print("asked", host, port, flush=True)
    target = socket.create_connection(("127.0.0.1" if host == "only.proxy.knows" else host, port))
    stream.sendall(b"\x05\x00\x00\x03\x04name" + bytes(2))
    return target


def http(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exact(stream, 1)
    lines = head.decode().split("\r\n")
    login = "Proxy-Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    if user != "-" and login not in lines:
        stream.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n")
        raise OSError("login")
    if refuse != "-":
        stream.sendall(f"HTTP/1.1 {refuse}\r\n\r\n".encode())
        raise OSError("refused")
    host, port = lines[0].split(" ")[1].rsplit(":", 1)
    print("asked", host.strip("[]"), port, flush=True)
    target = socket.create_connection(("127.0.0.1" if host == "only.proxy.knows" else host.strip("[]"), int(port)))
    # What the target says first may come with the answer.
    target.settimeout(0.3)
    try:
        first = target.recv(100)
    except TimeoutError:
        first = b""
    target.settimeout(None)
    stream.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n" + first)
    return target


def carry(source, destination):
    try:
        while data := source.recv(1 << 16):
            destination.sendall(data)
        destination.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(stream):
    try:
        target = {"socks5": socks5, "http": http}[kind](stream)
    except OSError:
        stream.close()
        return
    threading.Thread(target=carry, args=(stream, target), daemon=True).start()
    carry(target, stream)


listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
