//! Mistakes that the simulator plants to see that its checks find them. Without the feature `mistakes`, which only the simulator
//! sets, none can be planted and the places where they would be take no code.

/// Something that would be wrong with the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Mistake {
    /// Acknowledgements stop waiting for a silent replica when its removal is proposed, not when it is committed.
    AckBeforeShrink,
    /// They stop, and nothing is proposed.
    ShrinkWithoutCommit,
    /// Replicas take what a primary of an older epoch than they promised sends.
    NoEpochCheck,
    /// A lease counts from the arrival of its grant.
    LeaseFromReceipt,
    /// A failover takes the longest history among all copies, whatever its epochs and whether it is complete.
    FailoverByOffset,
    /// The source of a move forgets the slot when the target has it, before the move is committed.
    DeleteBeforeCommit,
    /// Replicas remove what has expired by themselves.
    ReplicaExpires,
    /// A lease counts before the table that its grant names is applied.
    GrantBeforeVersion,
    /// Acknowledgements do not wait for a replica that was proposed for the in-sync set.
    GrowNotAwaited,
    /// The source of a move serves again after a while.
    FreezeEndsByTimer,
    /// An in-sync replica that lacks data is filled without leaving the set.
    RepairInPlace,
    /// A new leader counts only what it granted itself.
    OlderGrantsForgotten,
    /// Replicas do not keep the answers of writes that are carried out once.
    AnswersForgotten,
    /// Watchers are not told of some writes.
    WriteUntold,
    /// Pings of watchers are echoed without a lease.
    EchoWithoutLease,
    /// Watchers of a slot that is handed over or taken over are not told.
    WatchersKept,
    /// Some records are applied wrongly. Nothing else is wrong then: the copies have to be mended.
    CopiesDiffer,
}

impl Mistake {
    /// Those that are to be found, not mended.
    pub const ALL: [Self; 16] = [
        Self::AckBeforeShrink,
        Self::ShrinkWithoutCommit,
        Self::NoEpochCheck,
        Self::LeaseFromReceipt,
        Self::FailoverByOffset,
        Self::DeleteBeforeCommit,
        Self::ReplicaExpires,
        Self::GrantBeforeVersion,
        Self::GrowNotAwaited,
        Self::FreezeEndsByTimer,
        Self::RepairInPlace,
        Self::OlderGrantsForgotten,
        Self::AnswersForgotten,
        Self::WriteUntold,
        Self::EchoWithoutLease,
        Self::WatchersKept,
    ];

    /// Whether this one is planted on this thread.
    #[cfg(not(feature = "mistakes"))]
    #[inline(always)]
    #[must_use]
    pub const fn is_planted(self) -> bool {
        false
    }

    /// Whether this one is planted on this thread.
    #[cfg(feature = "mistakes")]
    #[inline]
    #[must_use]
    pub fn is_planted(self) -> bool {
        PLANTED.get() == Some(self)
    }

    /// Plants one on this thread, or none.
    #[cfg(feature = "mistakes")]
    pub fn plant(mistake: Option<Self>) {
        PLANTED.set(mistake);
    }
}

#[cfg(feature = "mistakes")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Mistake>> = const { std::cell::Cell::new(None) };
}
