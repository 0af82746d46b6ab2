# A Modbus TCP device, or ten masters, of pymodbus. Register r of unit u holds u * 1000 + r.
#   modbus.py device PORT         serves one connection at a time, until it is killed
#   modbus.py masters PORT COUNT  each reads its own registers; prints one line a master: right, wrong, errors
#   modbus.py writer PORT         writes and reads registers 30 to 33, then asks for what there is not; prints what came
import asyncio
import sys
import threading
import time

UNITS = range(1, 11)
REGISTERS = 1000


def device(port):
    from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
    from pymodbus.server.async_io import ModbusTcpServer

    def registers(unit):
        # Addresses of a request count from 0, those of a block from 1.
        return ModbusSlaveContext(hr=ModbusSequentialDataBlock(1, [unit * 1000 + r for r in range(REGISTERS)]))

    async def serve():
        context = ModbusServerContext(slaves={unit: registers(unit) for unit in UNITS}, single=False)
        server = ModbusTcpServer(context, address=("127.0.0.1", port), allow_reuse_address=True)
        handler = server.handler

        class One(handler):
            connections = 0

            def connection_made(self, transport):
                One.connections += 1
                self.counted = True
                if One.connections > 1:
                    print("a second connection", file=sys.stderr, flush=True)
                    transport.abort()
                super().connection_made(transport)

            def connection_lost(self, reason):
                One.connections -= 1
                super().connection_lost(reason)

        server.handler = One
        await server.serve_forever()

    asyncio.run(serve())


def masters(port, count):
    from pymodbus.client import ModbusTcpClient

    lines = []

    def one(unit):
        right = wrong = errors = 0
        client = ModbusTcpClient("127.0.0.1", port=port, timeout=20)
        client.connect()
        for register in range(count):
            answer = client.read_holding_registers(register % REGISTERS, 1, slave=unit)
            if answer.isError():
                errors += 1
                time.sleep(0.01)
            elif answer.registers == [unit * 1000 + register % REGISTERS]:
                right += 1
            else:
                wrong += 1
        client.close()
        lines.append(f"{right} {wrong} {errors}")

    threads = [threading.Thread(target=one, args=(unit,)) for unit in UNITS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(lines))


def writer(port):
    from pymodbus.client import ModbusTcpClient

    def said(verb, answer):
        print(f"exception {answer.exception_code}" if answer.isError() else verb(answer))

    client = ModbusTcpClient("127.0.0.1", port=port, timeout=20)
    client.connect()
    said(lambda answer: "wrote 1", client.write_register(30, 7, slave=1))
    said(lambda answer: f"wrote {answer.count}", client.write_registers(31, [8, 9, 10], slave=1))
    said(lambda answer: f"read {answer.registers}", client.read_holding_registers(30, 4, slave=1))
    said(str, client.read_holding_registers(1000, 1, slave=1))
    said(str, client.write_coil(1, True, slave=1))
    said(str, client.write_registers(0, [], slave=1))
    client.close()


if sys.argv[1] == "device":
    device(int(sys.argv[2]))
elif sys.argv[1] == "writer":
    writer(int(sys.argv[2]))
else:
    masters(int(sys.argv[2]), int(sys.argv[3]))
