//! What looks after a running node from outside: the service manager that
//! started it.

mod supervisor;

pub(crate) use self::supervisor::Supervisor;
