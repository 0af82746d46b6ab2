// A good small hub in Qt: readyRead, and all lines that are whole written to
// each other member at once, or to one target if its port is given. (By canReadLine and readLine it would be a
// hundred times slower.) What a slow one has not taken waits in its socket,
// without a limit.
#include <QCoreApplication>
#include <QHash>
#include <QTcpServer>
#include <QTcpSocket>
#include <QTimer>

int main(int argc, char **argv)
{
    QCoreApplication application(argc, argv);
    QTcpServer server;
    QList<QTcpSocket *> members;
    QHash<QTcpSocket *, QByteArray> partial;
    server.setListenBacklogSize(4096);
    server.setMaxPendingConnections(4096);
    QTcpSocket target;
    if (argc > 2) {
        const auto dial = [&] { target.connectToHost(QHostAddress::LocalHost, quint16(atoi(argv[2]))); };
        QObject::connect(&target, &QTcpSocket::stateChanged, [&, dial](QAbstractSocket::SocketState state) {
            if (state == QAbstractSocket::UnconnectedState)
                QTimer::singleShot(100, &target, dial);
        });
        dial();
    }
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
                if (argc > 2) {
                    target.write(bytes);
                    return;
                }
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
