"""One end of a connection, told what to do line by line; answers each line."""
import socket, sys, threading, time

listener = peer = None


def pattern(offset, count):
    unit = bytes((i * 7 + 3) % 251 for i in range(251))
    start = offset % 251
    return (unit * ((count + start) // 251 + 2))[start : start + count]


def end(limit):
    """Reads to the end: how it came, how many bytes came before, whether they were right, and how long it took."""
    total, right, begun = 0, True, time.time()
    peer.settimeout(limit)
    try:
        while True:
            data = peer.recv(1 << 16)
            if not data:
                how = "fin"
                break
            right = right and data == pattern(total, len(data))
            total += len(data)
    except ConnectionResetError:
        how = "reset"
    except TimeoutError:
        how = "open"
    except OSError as error:
        how = error.strerror
    return f"{how} {total} {right} {time.time() - begun:.1f}"


def fill():
    """Sends until nothing is taken for a second."""
    sent = 0
    peer.settimeout(1)
    try:
        while True:
            sent += peer.send(pattern(sent, 1 << 16))
    except TimeoutError:
        return str(sent)


def announce(port, answer):
    """Answers whoever asks by UDP."""
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asked.bind(("", port))

    def run():
        while True:
            request, client = asked.recvfrom(100)
            if request == b"REQUEST FOR IP ADDRESS AND SERVERPORT":
                asked.sendto(answer, client)

    threading.Thread(target=run, daemon=True).start()


def broadcast(source, port):
    """Asks everyone from one address, and says who answered what."""
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    asking.bind((source, 0))
    asking.settimeout(30)
    asking.sendto(b"REQUEST FOR IP ADDRESS AND SERVERPORT\0", ("255.255.255.255", port))
    answer, server = asking.recvfrom(100)
    return f"{server[0]} {answer.decode()}"


for line in sys.stdin:
    verb, *words = line.split()
    answer = "ok"
    if verb == "listen":
        listener = socket.create_server(("", int(words[0])), backlog=50)
    elif verb == "unlisten":
        listener.close()
    elif verb == "accept":
        listener.settimeout(30)
        peer = listener.accept()[0]
    elif verb == "connect":
        # Without a limit, which would look for errors that belong to the first read.
        peer = socket.create_connection((words[0], int(words[1])))
    elif verb == "send":
        peer.settimeout(60)
        peer.sendall(pattern(0, int(words[0])))
    elif verb == "say":
        peer.sendall(bytes.fromhex("".join(words)))
    elif verb == "finish":
        peer.shutdown(socket.SHUT_WR)
    elif verb == "receive":
        peer.settimeout(30)
        count = int(words[0])
        data = b""
        while len(data) < count:
            data += peer.recv(count - len(data))
        answer = str(data == pattern(0, count))
    elif verb == "fill":
        answer = fill()
    elif verb == "end":
        answer = end(float(words[0]))
    elif verb == "announce":
        announce(int(words[0]), words[1].encode())
    elif verb == "broadcast":
        answer = broadcast(words[0], int(words[1]))
    elif verb == "close":
        peer.close()
    print(answer, flush=True)
