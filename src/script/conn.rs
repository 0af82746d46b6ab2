//! [`Conn`]: a connection as a script has it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{
    AnyUserData, Error, LuaString, MetaMethod, Table, UserData, UserDataFields, UserDataMethods, UserDataRef,
};

use super::outside::Outside;
use crate::registry::{Ending, Party, Peers, SendError, To};

/// One connection. It stays when that is over, and says so when it is written to.
pub(super) struct Conn {
    party: Arc<Party>,
    outside: Rc<Outside>,
    /// What the script calls it.
    name: RefCell<Option<String>>,
}

impl Conn {
    pub(super) fn new(outside: &Rc<Outside>, party: &Arc<Party>) -> Self {
        Self { party: Arc::clone(party), outside: Rc::clone(outside), name: RefCell::default() }
    }

    pub(super) fn party(&self) -> &Arc<Party> {
        &self.party
    }

    fn peers(&self) -> mlua::Result<Option<Arc<dyn Peers>>> {
        self.outside.called()?;
        let (registry, object) = (&self.outside.registry, &*self.party.object);
        let wired = registry.wired(object);
        if wired.is_none() && registry.find(object).is_some() {
            let text = format!("a relay has the bytes of `{object}`; a filter may return reply(text)");
            return Err(Error::runtime(text));
        }
        Ok(wired.map(|wired| wired.peers))
    }

    fn to(&self) -> To {
        To::One(self.party.id)
    }

    /// `false`: it is over.
    fn end(&self, how: Ending) -> mlua::Result<bool> {
        Ok(self.peers()?.is_some_and(|peers| peers.end(Some(self.party.id), how)))
    }
}

/// Sends, to a text of the script; `false`: nobody is there.
pub(super) fn send(peers: &dyn Peers, to: To, object: &str, data: &LuaString) -> mlua::Result<bool> {
    match peers.send(to, &data.as_bytes()) {
        Ok(()) => Ok(true),
        Err(SendError::NoConnection) => Ok(false),
        Err(SendError::Unsendable(why)) => {
            Err(Error::runtime(format!("cannot be sent to `{object}`: {why}")))
        }
    }
}

impl UserData for Conn {
    fn add_fields<F: UserDataFields<Self>>(fields: &mut F) {
        fields.add_field_method_get("id", |_, this| Ok(this.party.id.get()));
        fields.add_field_method_get("peer", |_, this| Ok(this.party.peer.to_string()));
        fields.add_field_method_get("local_address", |_, this| Ok(this.party.local.to_string()));
        fields.add_field_method_get("tls_name", |_, this| {
            Ok(this.party.introduction.name.as_deref().map(ToOwned::to_owned))
        });
        fields.add_field_method_get("via", |_, this| {
            Ok(this.party.introduction.via.as_ref().map(ToString::to_string))
        });
        fields.add_field_method_get("object", |_, this| Ok(this.party.object.to_string()));
        fields.add_field_method_get("name", |_, this| {
            Ok(this.name.borrow().clone().unwrap_or_else(|| this.party.peer.to_string()))
        });
        fields.add_field_method_set("name", |_, this, name: Option<String>| {
            if name.as_ref().is_some_and(|name| name.len() > LONGEST_NAME) {
                return Err(Error::runtime(format!("conn.name: is longer than {LONGEST_NAME} bytes")));
            }
            *this.name.borrow_mut() = name;
            Ok(())
        });
        fields.add_field_function_get("data", |_, this: AnyUserData| this.user_value::<Table>());
    }

    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method("write", |_, this: UserDataRef<Self>, data: LuaString| async move {
            let Some(peers) = this.peers()? else { return Ok(false) };
            if !peers.has_room(this.to()) {
                this.outside.clock.wait(peers.room(this.to())).await;
            }
            send(&*peers, this.to(), &this.party.object, &data)
        });
        methods.add_method("try_write", |_, this, data: LuaString| match this.peers()? {
            Some(peers) if peers.has_room(this.to()) => send(&*peers, this.to(), &this.party.object, &data),
            _ => Ok(false),
        });
        methods.add_method("shutdown_write", |_, this, ()| this.end(Ending::ShutdownWrite));
        methods.add_method("close", |_, this, ()| this.end(Ending::Close));
        methods.add_method("abort", |_, this, ()| this.end(Ending::Abort));
        methods.add_meta_method(MetaMethod::ToString, |_, this, ()| {
            Ok(format!("connection {} of {} with {}", this.party.id, this.party.object, this.party.peer))
        });
    }
}

/// In bytes.
const LONGEST_NAME: usize = 256;
