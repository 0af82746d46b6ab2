// The hub that a reader of Qt's documentation would write: readyRead, whole
// lines by canReadLine, each written to all others. What a slow one has not
// taken waits in its socket, without a limit.
#include <QCoreApplication>
#include <QTcpServer>
#include <QTcpSocket>

int main(int argc, char **argv)
{
    QCoreApplication application(argc, argv);
    QTcpServer server;
    QList<QTcpSocket *> members;
    server.setListenBacklogSize(4096);
    server.setMaxPendingConnections(4096);
    QObject::connect(&server, &QTcpServer::newConnection, [&] {
        while (QTcpSocket *member = server.nextPendingConnection()) {
            member->setSocketOption(QAbstractSocket::LowDelayOption, 1);
            members.append(member);
            QObject::connect(member, &QTcpSocket::readyRead, [&, member] {
                while (member->canReadLine()) {
                    const QByteArray line = member->readLine();
                    for (QTcpSocket *other : members)
                        if (other != member)
                            other->write(line);
                }
            });
            QObject::connect(member, &QTcpSocket::disconnected, [&, member] {
                members.removeOne(member);
                member->deleteLater();
            });
        }
    });
    return server.listen(QHostAddress::LocalHost, quint16(atoi(argv[1]))) ? application.exec() : 1;
}
