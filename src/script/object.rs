//! [`Object`]: a listener, client, relay or timer as a script has it, by its
//! name, so that it is the one a reload has made.

use std::rc::Rc;

use mlua::{Error, LuaString, MetaMethod, Table, UserData, UserDataFields, UserDataMethods, UserDataRef};

use super::conn::{Conn, send};
use super::outside::{Outside, failed};
use crate::event::ConnectionId;
use crate::registry::{Arguments, ObjectKind, To, Wired};

/// An object of the node.
pub(super) struct Object {
    name: String,
    outside: Rc<Outside>,
}

impl Object {
    pub(super) fn new(outside: &Rc<Outside>, name: &str) -> Self {
        Self { name: name.to_owned(), outside: Rc::clone(outside) }
    }

    fn wired(&self) -> mlua::Result<Wired> {
        self.outside.called()?;
        self.outside.registry.wired(&self.name).ok_or_else(|| {
            let name = &self.name;
            Error::runtime(format!(
                "`{name}` has no connections for scripts; a relay has its bytes, or it has none"
            ))
        })
    }

    async fn write(&self, to: To, data: LuaString) -> mlua::Result<bool> {
        let peers = self.wired()?.peers;
        if !peers.has_room(to) {
            self.outside.clock.wait(peers.room(to)).await;
        }
        send(&*peers, to, &self.name, &data)
    }

    /// To several connections, once all of them have room, so that all get such messages in the same order.
    async fn write_each(&self, ids: Vec<ConnectionId>, data: LuaString) -> mlua::Result<()> {
        let peers = self.wired()?.peers;
        while let Some(full) = ids.iter().find(|id| !peers.has_room(To::One(**id))) {
            self.outside.clock.wait(peers.room(To::One(*full))).await;
        }
        ids.iter().try_for_each(|id| send(&*peers, To::One(*id), &self.name, &data).map(|_| ()))
    }

    async fn slot(&self, slot: &str) -> mlua::Result<()> {
        self.outside.called()?;
        let calls = self.outside.registry.call(&self.name, slot, Arguments::new());
        self.outside.clock.wait(calls).await.map_err(failed)
    }

    /// A word for what it does now.
    fn state(&self) -> String {
        let found = self.outside.registry.find(&self.name).map(|found| found.kind);
        match found {
            Some(ObjectKind::Listener { state, .. }) => format!("{state:?}").to_lowercase(),
            Some(ObjectKind::Client { .. }) => {
                let wired = self.outside.registry.wired(&self.name);
                let is_there = wired.is_some_and(|wired| !wired.peers.parties().is_empty());
                if is_there { "connected" } else { "unconnected" }.into()
            }
            Some(ObjectKind::Timer { running: true, .. }) => "running".into(),
            Some(ObjectKind::Timer { running: false, .. }) => "stopped".into(),
            Some(ObjectKind::Relay { .. } | ObjectKind::Discovery { .. } | ObjectKind::Script { .. }) => {
                "running".into()
            }
            None => "gone".into(),
        }
    }
}

/// The connection of a value of the script.
fn id(conn: Option<UserDataRef<Conn>>) -> Option<ConnectionId> {
    conn.map(|conn| conn.party().id)
}

impl UserData for Object {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("state", |_, this| Ok(this.state()));
        fields.add_field_method_get("name", |_, this| Ok(this.name.clone()));
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method(
            "write",
            |_, this: UserDataRef<Self>, (data, conn): (LuaString, Option<UserDataRef<Conn>>)| async move {
                let to = match (id(conn), &this.wired()?.line) {
                    (_, Some(_)) => To::All { but: None },
                    (Some(id), None) => To::One(id),
                    (None, None) => {
                        let text =
                            format!("node.{0}:write needs a connection; write node.{0}:broadcast", this.name);
                        return Err(Error::runtime(text));
                    }
                };
                this.write(to, data).await
            },
        );
        methods.add_async_method(
            "broadcast",
            |_, this: UserDataRef<Self>, (data, options): (LuaString, Option<Table>)| async move {
                let Some(options) = options else {
                    return this.write(To::All { but: None }, data).await.map(|_| ());
                };
                for pair in options.pairs::<String, mlua::Value>() {
                    let (name, _) = pair?;
                    if !["except", "to"].contains(&name.as_str()) {
                        let name = name.escape_debug();
                        return Err(Error::runtime(format!(
                            "broadcast has no `{name}`; it has `except` and `to`"
                        )));
                    }
                }
                let but = id(options.get("except")?);
                match options.get::<Option<Table>>("to")? {
                    Some(list) => {
                        let ids = list.sequence_values().map(|conn| Ok(id(Some(conn?))));
                        let ids: Vec<_> = ids.collect::<mlua::Result<_>>()?;
                        let ids = ids.into_iter().flatten().filter(|id| Some(*id) != but).collect();
                        this.write_each(ids, data).await
                    }
                    None => this.write(To::All { but }, data).await.map(|_| ()),
                }
            },
        );
        for slot in SLOTS {
            methods.add_async_method(slot, move |_, this: UserDataRef<Self>, ()| async move {
                this.slot(slot).await
            });
        }
        methods.add_method("connections", |lua, this, ()| {
            let parties = this.wired()?.peers.parties();
            let list = lua.create_table_with_capacity(parties.len(), 0)?;
            parties.iter().try_for_each(|party| list.raw_push(this.outside.conn(lua, party)?))?;
            Ok(list)
        });
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| Ok(this.name.clone()));
    }
}

/// Those that take nothing.
const SLOTS: [&str; 8] = ["open", "close", "abort", "shutdown_write", "pause", "resume", "start", "stop"];
