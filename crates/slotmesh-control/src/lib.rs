//! Pure control plane: commands, the replicated cluster state, the placement planner, leases, founding, reform
//! and the failover decision.
//!
//! Everything here is a function of its arguments. A command that was committed by the log is applied to
//! [`ClusterState`] in the same order everywhere; what the leader wants next is computed by [`plan`], [`Failover`] and
//! [`voters`] and proposed as commands, each a compare-and-set on slot epochs, so that a stale or repeated proposal
//! changes nothing. No clock is read: the leader's timing lives in [`LeaseLedger`] and [`Absences`], with time as an argument.

mod absence;
mod command;
mod exchange;
mod failover;
mod founding;
mod lease;
mod load;
pub mod log;
mod member;
mod placement;
mod rebalance;
mod reform;
mod state;
mod voters;

pub use absence::{AbsenceEvent, Absences, Awaited, LAST_COPY_WAIT, RECOPY_AFTER};
pub use command::{Claim, Command, Outcome};
pub use exchange::{Exchange, exchange, forget_replaced};
pub use failover::{Failover, PROMISE_WAIT};
pub use founding::{Founding, FoundingStep};
pub use lease::{
    ELECTION_MIN, LEASE, LEASE_MARGIN_PERCENT, LEASE_PING_INTERVAL, LeaseLedger, NO_WITNESS_WAIT,
};
pub use load::{LOAD_INTERVAL, LoadClass, LoadError, LoadFloor, LoadReport, Loads, SlotLoads};
pub use member::{Member, MemberState, NodeInfo};
pub use placement::{COPIES_IN_FLIGHT_MAX, MOVES_IN_FLIGHT_MAX, Sight, plan};
pub use rebalance::{Progress, Rebalance};
pub use reform::{Asked, LEASES_OVER_AFTER, REFORM_ASKS_FOR, Reform, ReformStep, Reforming};
pub use state::{ClusterDelta, ClusterState, WANTED_REPLICAS_MAX};
pub use voters::{VOTER_REPLACE_AFTER, fill_seats, voter_seats, voters};
