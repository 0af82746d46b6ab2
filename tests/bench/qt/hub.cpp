// A good small hub in Qt: readyRead, and all lines that are whole written to
// each other member at once. (By canReadLine and readLine it would be a
// hundred times slower.) What a slow one has not taken waits in its socket,
// without a limit.
#include <QCoreApplication>
#include <QHash>
#include <QTcpServer>
#include <QTcpSocket>

int main(int argc, char **argv)
{
    QCoreApplication application(argc, argv);
    QTcpServer server;
    QList<QTcpSocket *> members;
    QHash<QTcpSocket *, QByteArray> partial;
    server.setListenBacklogSize(4096);
    server.setMaxPendingConnections(4096);
    QObject::connect(&server, &QTcpServer::newConnection, [&] {
        while (QTcpSocket *member = server.nextPendingConnection()) {
            member->setSocketOption(QAbstractSocket::LowDelayOption, 1);
            members.append(member);
            QObject::connect(member, &QTcpSocket::readyRead, [&, member] {
                QByteArray bytes = partial.take(member) + member->readAll();
                const auto end = bytes.lastIndexOf('\n') + 1;
                if (end < bytes.size())
                    partial.insert(member, bytes.mid(end));
                bytes.truncate(end);
                for (QTcpSocket *other : members)
                    if (other != member && end > 0)
                        other->write(bytes);
            });
            QObject::connect(member, &QTcpSocket::disconnected, [&, member] {
                members.removeOne(member);
                partial.remove(member);
                member->deleteLater();
            });
        }
    });
    return server.listen(QHostAddress::LocalHost, quint16(atoi(argv[1]))) ? application.exec() : 1;
}
