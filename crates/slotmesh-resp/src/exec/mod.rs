//! Carries commands out: finds the command, checks arity, login and slot, and hands it to its family.

mod arguments;
mod catalogue;
mod cluster;
mod connection;
mod exchange;
mod failure;
mod info;
mod keys;
mod lifetimes;
mod parts;
mod redirect;
mod server;
mod strings;
mod table;

use std::sync::atomic::Ordering;

use bytes::Bytes;

use self::table::{Family, Spec};
use crate::gateway::Gateway;
use crate::protocol::Frame;
use crate::session::Session;

/// What a family works with.
pub(crate) struct Call<'a> {
    gateway: &'a Gateway,
    session: &'a mut Session,
    spec: &'static Spec,
    /// The name and the arguments; as many as the command's arity demands.
    args: &'a [Bytes],
}

impl Call<'_> {
    /// The argument at this place, 0 being the name; empty when there is none.
    fn arg(&self, index: usize) -> &[u8] {
        self.args.get(index).map(AsRef::as_ref).unwrap_or_default()
    }

    /// The argument as the key or value of an operation. The store copies small ones; large ones get memory of their own,
    /// or they would keep the whole read buffer alive uncounted.
    fn bytes(&self, index: usize) -> Bytes {
        const SHARED_BYTES_MAX: usize = 32 << 10;
        match self.args.get(index) {
            Some(arg) if arg.len() > SHARED_BYTES_MAX => Bytes::copy_from_slice(arg),
            Some(arg) => arg.clone(),
            None => Bytes::new(),
        }
    }

    /// The argument in lower case, as far as it is text.
    fn word(&self, index: usize) -> String {
        String::from_utf8_lossy(self.arg(index)).to_ascii_lowercase()
    }

    fn wrong_arity(&self, subcommand: &str) -> Frame {
        failure::wrong_arity(&format!("{}|{subcommand}", self.spec.name))
    }

    fn unknown_subcommand(&self) -> Frame {
        let given = failure::shown(self.arg(1));
        let name = self.spec.name.to_ascii_uppercase();
        Frame::error(format!("ERR unknown subcommand '{given}'. Try {name} HELP."))
    }
}

/// Carries one command out and returns its reply.
pub(crate) async fn run(gateway: &Gateway, session: &mut Session, args: &[Bytes]) -> Frame {
    gateway.counters.commands.fetch_add(1, Ordering::Relaxed);
    let name = args.first().map(AsRef::as_ref).unwrap_or_default();
    let Some(spec) = table::find(name) else {
        if [&b"post"[..], b"host:"].iter().any(|word| name.eq_ignore_ascii_case(word)) {
            // No client of ours: a browser that somebody else's page has sent here. What follows is not to be obeyed.
            session.closing = true;
            return Frame::error("ERR this is no HTTP server");
        }
        return if session.trusted { failure::unknown_command(args) } else { failure::no_auth() };
    };
    if !spec.takes(args.len()) {
        return failure::wrong_arity(spec.name);
    }
    if !session.trusted && !spec.needs_no_login() {
        return failure::no_auth();
    }
    if let Some(elsewhere) = redirect::check(gateway, session, spec, args) {
        return elsewhere;
    }
    let call = Call { gateway, session, spec, args };
    match spec.family {
        Family::Strings => strings::run(call).await,
        Family::Keys => keys::run(call).await,
        Family::Server => server::run(call).await,
        Family::Cluster => cluster::run(&call),
        Family::Connection => connection::run(call),
    }
}
