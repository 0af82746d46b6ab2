"""A crowd in the chat room: crowd.py PORT CLIENTS LINES. Each enters under a
name of its own and says its lines, in pieces, while all the others do; each
must hear every line once, and all of them in the same order."""
import random
import re
import selectors
import socket
import sys
import time

port, clients, lines = map(int, sys.argv[1:])
give_up = time.monotonic() + 60
selector = selectors.DefaultSelector()


class Client:
    def __init__(self, nth):
        self.name = f"u{nth:03}"
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.rest, self.heard, self.is_in, self.everyone = b"", [], False, False
        self.to_send = self.name.encode() + b"\n"
        selector.register(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def talk(self):
        self.to_send += b"".join(f"line {nth}\n".encode() for nth in range(lines))
        selector.modify(self.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self)

    def handle(self, events):
        if events & selectors.EVENT_WRITE:
            sent = self.socket.send(self.to_send[: random.randint(1, 12)])
            self.to_send = self.to_send[sent:]
            if not self.to_send:
                selector.modify(self.socket, selectors.EVENT_READ, self)
        if events & selectors.EVENT_READ:
            data = self.socket.recv(1 << 16)
            if not data:
                sys.exit(f"{self.name} was closed after {len(self.heard)} lines")
            *whole, self.rest = (self.rest + data).split(b"\n")
            for line in whole:
                if re.match(rb"u\d+: line", line):
                    self.heard.append(line)
                elif line.startswith(b"* ") and line.endswith(b" has joined; %d here" % clients):
                    self.everyone = True


def run_until(is_done):
    while not is_done():
        if time.monotonic() > give_up:
            sys.exit(f"not done: {sorted(len(client.heard) for client in crowd)}")
        for key, events in selector.select(1):
            key.data.handle(events)


crowd = [Client(nth) for nth in range(clients)]
run_until(lambda: all(client.everyone for client in crowd))
for client in crowd:
    client.talk()
run_until(lambda: all(len(client.heard) >= clients * lines for client in crowd))
for client in crowd:
    own = [line for line in client.heard if line.startswith(client.name.encode())]
    if own != [f"{client.name}: line {nth}".encode() for nth in range(lines)]:
        sys.exit(f"{client.name} is out of order")
expected = sorted(f"{client.name}: line {nth}".encode() for client in crowd for nth in range(lines))
for client in crowd:
    if sorted(client.heard) != expected:
        sys.exit(f"{client.name} has heard something twice")
    if client.heard != crowd[0].heard:
        sys.exit(f"{client.name} has heard it in another order")
print(f"{clients} have heard {clients * lines} lines each")
