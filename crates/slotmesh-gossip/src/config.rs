use std::time::Duration;

/// Timers and fan-outs. Every node of a cluster should use the same; nothing breaks when they differ, only times do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipConfig {
    /// Between two probes of a node; each probes one member per interval. Shorter finds deaths sooner and costs
    /// traffic in proportion. 200 ms to 2 s.
    pub probe_interval: Duration,
    /// Wait for a direct answer before others are asked to probe; also the scale by which a late timer counts as a
    /// pause (twice this). Several round trips of the worst healthy path; less than half of `probe_interval`.
    pub probe_timeout: Duration,
    /// Members asked to probe one that gave no direct answer. More hides more broken paths. 0 to 8.
    pub indirect_probes: usize,
    /// Between two rounds of spreading news; nothing is sent without news. Shorter spreads faster. 50 to 500 ms.
    pub gossip_interval: Duration,
    /// Members told the news in each round. 2 to 5.
    pub gossip_fanout: usize,
    /// A suspect is declared dead after this x max(1, log10(members)) x `probe_interval`, once others confirmed the
    /// suspicion. Lower is faster and errs more often. 3 to 6.
    pub suspicion_multiplier: u32,
    /// Without any confirmation the suspicion lasts this many times longer. It is what keeps a node whose own network
    /// is broken from declaring everybody dead. 2 to 6.
    pub suspicion_max_factor: u32,
    /// Each piece of news is sent this x ceil(log10(members + 1)) times. More survives more loss. 3 to 5.
    pub retransmit_multiplier: u32,
    /// Longest wait between two tries of a seed that no living member stands for, and between two probes of dead
    /// members: how soon a healed partition is noticed. 1 to 30 s.
    pub seed_interval: Duration,
    /// Between two comparisons of the whole membership with a random member, which repair what rumours missed. About
    /// 1.2 KB each. 5 to 60 s.
    pub sync_interval: Duration,
    /// How long dead and departed members are remembered. Longer than any partition that must heal without seeds;
    /// costs memory and one slow probe. 10 min to a day.
    pub dead_retention: Duration,
    /// Upper bound of the local health score: a node that doubts itself waits up to (1 + this) times longer for
    /// answers. 0 switches it off. 0 to 8.
    pub health_max: u32,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            indirect_probes: 3,
            gossip_interval: Duration::from_millis(100),
            gossip_fanout: 3,
            suspicion_multiplier: 4,
            suspicion_max_factor: 6,
            retransmit_multiplier: 4,
            seed_interval: Duration::from_secs(5),
            sync_interval: Duration::from_secs(15),
            dead_retention: Duration::from_secs(6 * 3600),
            health_max: 8,
        }
    }
}

impl GossipConfig {
    /// Everything that is wrong with these settings, in words for the operator; empty when they are usable.
    #[must_use]
    pub fn problems(&self) -> Vec<&'static str> {
        let checks = [
            (self.probe_interval < TICK_MIN, "probe_interval is below 10 ms"),
            (self.probe_timeout < TICK_MIN, "probe_timeout is below 10 ms"),
            (
                self.probe_timeout * 2 > self.probe_interval,
                "probe_timeout exceeds half probe_interval",
            ),
            (self.gossip_interval < TICK_MIN, "gossip_interval is below 10 ms"),
            (self.seed_interval < TICK_MIN, "seed_interval is below 10 ms"),
            (self.sync_interval < TICK_MIN, "sync_interval is below 10 ms"),
            (
                self.gossip_fanout == 0 || self.gossip_fanout > FANOUT_MAX,
                "gossip_fanout is not 1..=16",
            ),
            (self.indirect_probes > FANOUT_MAX, "indirect_probes is above 16"),
            (self.suspicion_multiplier == 0, "suspicion_multiplier is 0"),
            (self.suspicion_max_factor == 0, "suspicion_max_factor is 0"),
            (self.retransmit_multiplier == 0, "retransmit_multiplier is 0"),
            (self.health_max > HEALTH_LIMIT, "health_max is above 64"),
        ];
        checks.into_iter().filter_map(|(wrong, text)| wrong.then_some(text)).collect()
    }

    /// The same with every value moved into the range in which the engine cannot spin or stall.
    pub(crate) fn clamped(mut self) -> Self {
        for interval in [
            &mut self.probe_interval,
            &mut self.gossip_interval,
            &mut self.seed_interval,
            &mut self.sync_interval,
            &mut self.probe_timeout,
        ] {
            *interval = (*interval).clamp(TICK_MIN, TICK_MAX);
        }
        self.probe_timeout = self.probe_timeout.min(self.probe_interval / 2);
        self.gossip_fanout = self.gossip_fanout.clamp(1, FANOUT_MAX);
        self.indirect_probes = self.indirect_probes.min(FANOUT_MAX);
        self.suspicion_multiplier = self.suspicion_multiplier.clamp(1, FACTOR_MAX);
        self.suspicion_max_factor = self.suspicion_max_factor.clamp(1, FACTOR_MAX);
        self.retransmit_multiplier = self.retransmit_multiplier.clamp(1, FACTOR_MAX);
        self.health_max = self.health_max.min(HEALTH_LIMIT);
        self
    }
}

/// Below this a driver's timer is noise and the engine would only burn the processor.
const TICK_MIN: Duration = Duration::from_millis(10);
/// Keeps products of intervals and factors far from overflow.
const TICK_MAX: Duration = Duration::from_secs(24 * 3600);
const FANOUT_MAX: usize = 16;
const FACTOR_MAX: u32 = 1000;
const HEALTH_LIMIT: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_no_problem_and_zeroes_have_all() {
        assert_eq!(GossipConfig::default().problems(), Vec::<&str>::new());
        let zero = GossipConfig {
            probe_interval: Duration::ZERO,
            probe_timeout: Duration::ZERO,
            gossip_fanout: 0,
            suspicion_multiplier: 0,
            ..GossipConfig::default()
        };
        assert_eq!(zero.problems().len(), 4);
        let clamped = zero.clamped();
        assert_eq!(clamped.probe_interval, TICK_MIN);
        assert_eq!(clamped.gossip_fanout, 1);
    }
}
