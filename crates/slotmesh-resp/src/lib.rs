//! Redis protocol listener over a node, so that any Redis client can look inside.
//!
//! [`Resp::serve`] listens on TCP (loopback unless told otherwise; elsewhere only with a password) and answers the commands
//! of `exec/table.rs` in RESP2 or RESP3. Any node answers for any key: what this node does not own is forwarded to its
//! owner. What differs from Redis:
//!
//! * **No `MOVED` by default.** Plain clients need not know that there is a cluster. With [`RespConfig::redirect`] keys of
//!   other nodes that announce a Redis address are answered with `MOVED`, as cluster clients expect; keys of nodes that
//!   announce none are still forwarded, and the `CLUSTER` commands list their slots under the node that is asked. Never
//!   `ASK`: slots move at once.
//! * **Commands with many keys are not atomic**, because the keys may live on several nodes: `MSET`, `DEL`, `UNLINK` that
//!   answer an error may have been carried out for some keys. With `redirect` they need one slot (`CROSSSLOT`).
//!   Commands with one key are carried out in one step, those that read and write (`GETSET`, `GETEX`, `APPEND`, …) too.
//! * **Points in time** (`EXPIREAT`, `SET … EXAT`, `EXPIRETIME`) are turned into what is left of them and back by the clock of
//!   the node that is asked. So they are exact to some milliseconds, and `GT` or `LT` may go either way between equal ones.
//!   What would last for more than half a million years lasts for ever.
//! * **Errors.** `CLUSTERDOWN`: nobody may serve the slot now, nothing was changed, a later retry helps. `TRYAGAIN`: too much is
//!   under way, nothing was changed. `ERR outcome unknown …`: the write may have happened or happen yet; only the client
//!   knows whether repeating it does harm. `OOM`: the byte budget is full of what may not be evicted.
//! * `FLUSHALL` and `FLUSHDB` empty the whole cluster, `DBSIZE` and `INFO` speak of the node that is asked (entries in the
//!   slots it is primary of). There is one database, no transaction, no script, no publish and subscribe, no `SCAN`, and no
//!   type but strings.
//! * A connection's commands are carried out one after another, in order; replies of a pipeline leave in one write. A
//!   pipeline of forwarded commands takes a round trip for each: `MGET` and `MSET` take one per owner.
//!
//! Everything is bounded: connections, arguments, bytes of a command ([`CommandLimits`]), bytes of a reply, and the time that
//! a client may leave its replies unread.

mod config;
mod connection;
mod error;
mod exec;
mod gateway;
mod listener;
pub mod protocol;
mod session;
mod topology;

pub use config::RespConfig;
pub use error::RespError;
pub use listener::{BoundResp, Resp, STOP_PATIENCE};
pub use protocol::CommandLimits;
