use slotmesh_slots::Mistake;

/// A mistake that is put into the simulated surroundings on purpose, to see that the checks find such a thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Bug {
    /// The log goes on telling its leader that a quorum answers when none does: leases are granted on both sides.
    StaleQuorum,
    /// The data plane's clock is one that stands still while the process is stopped.
    CachedClock,
    /// Every lost connection is reported as an orderly departure, which proves a death.
    LossIsDeparture,
    /// The log commits on the leader's word alone.
    CommitAlone,
    /// Clients are told of writes before the replicas have them.
    AckBeforeReplicas,
    /// How many nodes a client wants to have its write is not minded.
    FewerCopies,
    /// A restarted process uses its former identity.
    IdentityReused,
    /// Survivors go on without the majority while its leases last.
    ReformAtOnce,
    /// One in the code under test itself.
    Planted(Mistake),
}

impl Bug {
    /// Those of the surroundings.
    const AROUND: [Self; 8] = [
        Self::StaleQuorum,
        Self::CachedClock,
        Self::LossIsDeparture,
        Self::CommitAlone,
        Self::AckBeforeReplicas,
        Self::FewerCopies,
        Self::IdentityReused,
        Self::ReformAtOnce,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::AROUND.into_iter().chain(Mistake::ALL.map(Self::Planted))
    }

    /// The one with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mended = Self::Planted(Mistake::CopiesDiffer);
        Self::all().chain([mended]).find(|bug| match bug {
            Self::Planted(mistake) => format!("{mistake:?}") == name,
            bug => format!("{bug:?}") == name,
        })
    }
}
