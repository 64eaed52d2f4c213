//! Whether this node leads.

use std::time::Duration;

use slotmesh_control::log::LogStatus;
use slotmesh_control::{Absences, ClusterDelta};
use slotmesh_slots::MonoTime;

use super::leader::Leader;
use super::placing::Placing;
use super::{Brain, NodeEvent};

/// No claim to lead lasts so long without a majority's answer. A leader that has one may apply its own decisions a moment after others.
const OVERTAKEN_AFTER: Duration = Duration::from_secs(2);

impl Brain {
    /// The driver read the log's status, and after reading it handed over every delta applied so far: a leader must not
    /// grant leases for an older state than its predecessor's last. Called before other inputs, as often as there are any.
    pub fn handle_log_status(&mut self, status: LogStatus, now: MonoTime) {
        let led = self.leader.is_some();
        // The log of a reformed cluster has no leader before it has the state to lead with.
        let knows = self.view.generation().is_none_or(|known| Some(known) == self.generation);
        let ours = self.generation.is_some() && self.log_generation == self.generation;
        let overtaken = self.overtaken.is_some() && self.overtaken == status.leader_since;
        let stands = status.is_leader && status.caught_up && !overtaken;
        let leads = stands && ours && knows && !self.left;
        let same_reign = led && self.log.leader_since == status.leader_since;
        self.log = status;
        if leads && !same_reign {
            let since = self.log.leader_since.unwrap_or(now);
            let absences = Absences::elected(&self.view, self.config.recopy_after, since);
            let placing = Placing::new(absences, self.config.load_floor);
            self.leader = Some(Leader::elected(placing, since));
            self.event(NodeEvent::Leading);
        } else if !leads && led {
            self.leader = None;
            self.lease.led_by(&self.log);
            self.event(NodeEvent::NotLeading);
        }
    }

    /// Takes over what others tell of the state. A leader that hears of what it has not decided itself, and whose majority has been silent
    /// for long, was cut off while another one came to lead; where all who voted have gone since, its log will not tell it.
    pub(super) fn learn<'a>(
        &mut self,
        deltas: impl IntoIterator<Item = &'a ClusterDelta>,
        now: MonoTime,
    ) {
        let before = self.view.version();
        deltas.into_iter().for_each(|delta| self.advance(delta, now));
        let acked = self.log.quorum_acked;
        let silent = acked.is_none_or(|acked| now.saturating_since(acked) >= OVERTAKEN_AFTER);
        if self.leader.is_some() && self.view.version() > before && silent {
            self.overtaken = self.log.leader_since;
            self.handle_log_status(self.log.clone(), now);
        }
    }
}
