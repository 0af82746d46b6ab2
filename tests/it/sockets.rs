//! TcpSocket.
