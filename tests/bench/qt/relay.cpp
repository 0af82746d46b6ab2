// The relay that a reader of Qt's documentation would write: one QTcpSocket
// for each client, readyRead to write. With a limit it stops reading while the
// other side has more than that to write.
#include <QCoreApplication>
#include <QTcpServer>
#include <QTcpSocket>

static void forward(QTcpSocket *from, QTcpSocket *to, qint64 limit)
{
    auto move = [=] {
        while (from->bytesAvailable() > 0) {
            if (limit > 0 && to->bytesToWrite() > limit)
                return;
            to->write(limit > 0 ? from->read(limit) : from->readAll());
        }
    };
    QObject::connect(from, &QTcpSocket::readyRead, to, move);
    if (limit > 0) {
        from->setReadBufferSize(limit);
        QObject::connect(to, &QTcpSocket::bytesWritten, from, move);
    }
    QObject::connect(from, &QTcpSocket::disconnected, to, [=] { to->disconnectFromHost(); });
}

int main(int argc, char **argv)
{
    QCoreApplication application(argc, argv);
    const quint16 listenPort = atoi(argv[1]), targetPort = atoi(argv[2]);
    const qint64 limit = atoll(argv[3]);
    QTcpServer server;
    server.setListenBacklogSize(4096);
    server.setMaxPendingConnections(4096);
    QObject::connect(&server, &QTcpServer::newConnection, [&] {
        while (QTcpSocket *client = server.nextPendingConnection()) {
            auto *target = new QTcpSocket(client);
            client->setSocketOption(QAbstractSocket::LowDelayOption, 1);
            target->setSocketOption(QAbstractSocket::LowDelayOption, 1);
            forward(client, target, limit);
            forward(target, client, limit);
            QObject::connect(client, &QTcpSocket::disconnected, client, &QObject::deleteLater);
            target->connectToHost(QHostAddress::LocalHost, targetPort);
        }
    });
    return server.listen(QHostAddress::LocalHost, listenPort) ? application.exec() : 1;
}
