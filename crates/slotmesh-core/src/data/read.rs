use std::sync::atomic::Ordering;

use bytes::Bytes;
use slotmesh_replication::Outcome;
use slotmesh_slots::{MonoTime, Seq, Slot, Version};
use slotmesh_store::{Entry, SlotGuard};

use super::gate::RoleWord;
use super::{DataPlane, Done};
use crate::request::{DataError, Reply, Value};

/// What a look at the store found.
enum Found {
    /// Every in-sync replica knows it: it can be told.
    Committed(Reply),
    /// It can be told once this seq is committed.
    Uncommitted(Reply, Seq),
}

impl DataPlane {
    /// Reads an entry, if this node may serve it and the answer needs no waiting; `None` when it does, and then
    /// [`DataPlane::execute`] waits.
    ///
    /// # Errors
    /// When this node may not serve the slot.
    pub fn get_now(&self, key: &[u8]) -> Result<Option<Reply>, DataError> {
        let slot = Slot::of_key(key);
        self.store.prefetch(slot);
        let role = self.gate.serving(slot)?;
        match self.look(slot, role, key)? {
            Found::Committed(reply) => Ok(Some(reply)),
            Found::Uncommitted(..) => Ok(None),
        }
    }

    pub(super) fn read(&self, slot: Slot, key: &Bytes, done: Done) {
        let found =
            self.gate.serving(slot).and_then(|role| Ok((role, self.look(slot, role, key)?)));
        match found {
            Ok((_, Found::Committed(reply))) => done(Ok(reply)),
            Ok((role, Found::Uncommitted(reply, seq))) => {
                self.when_committed((slot, role, seq), Ok(reply), 0, done)
            }
            Err(error) => done(Err(error)),
        }
    }

    /// Gives the reply when all in-sync replicas have the slot up to `seq` and this node may still speak for it. A write
    /// that was applied is never said to have changed nothing.
    /// If fewer than so many copies are in sync by then, as far as this node knows, it is not said either.
    pub(super) fn when_committed(
        &self,
        (slot, role, seq): (Slot, RoleWord, Seq),
        reply: Result<Reply, DataError>,
        copies_min: u8,
        done: Done,
    ) {
        let gate = self.gate.clone();
        let version = Version::new(role.epoch(), seq);
        let settle = move |outcome| {
            let committed = outcome == Outcome::Committed;
            // Some may have been struck since it was written.
            let copies = gate.role(slot).copies();
            let is_read = reply.as_ref().is_ok_and(Reply::is_read);
            let told = match is_read {
                true => committed && gate.confirm(slot, role).is_ok(),
                // The slot may be another node's by now, handed over with the write.
                false if copies < copies_min => false,
                false if committed => gate.confirm_write(slot, role, seq),
                false => gate.was_handed_over(slot, role, seq),
            };
            let reply = reply.map(|reply| reply.with_copies_at_most(copies));
            done(if told { reply } else { Err(DataError::Ambiguous) });
        };
        self.primary.wait(slot, version, Box::new(settle));
    }

    /// Looks without a lock where it can: the role is read before and confirmed, with the lease, after.
    fn look(&self, slot: Slot, role: RoleWord, key: &[u8]) -> Result<Found, DataError> {
        // Read early, so that the processor fetches it together with the slot: what was committed then still is when the
        // role is confirmed.
        let committed = self.primary.committed(slot);
        // Asking at the origin of time hides nothing; whether it has expired is judged by the time of the check.
        let entry = self.store.get(slot, key, MonoTime::ZERO);
        let now = self.gate.confirm(slot, role)?;
        match entry.filter(|entry| !is_expired(entry, now)) {
            Some(entry) => Ok(self.found(slot, committed, entry, now)),
            None => self.look_closer(slot, role, key),
        }
    }

    /// Reads many entries as [`DataPlane::get_now`] does each, in their order and several times as fast.
    #[must_use]
    pub fn get_many_now(&self, keys: &[&[u8]]) -> Vec<Result<Option<Reply>, DataError>> {
        let serve = |key: &&[u8]| {
            let slot = Slot::of_key(key);
            Ok((slot, self.gate.serving(slot)?, self.primary.committed(slot)))
        };
        let served: Vec<Result<_, DataError>> = keys.iter().map(serve).collect();
        let wanted = served.iter().zip(keys);
        let wanted = wanted.filter_map(|(served, &key)| Some((served.as_ref().ok()?.0, key)));
        let entries = self.store.get_many(&wanted.collect::<Vec<_>>(), MonoTime::ZERO);
        let now = self.gate.now();
        let mut entries = entries.iter();
        let mut answers = Vec::with_capacity(keys.len());
        for (served, key) in served.into_iter().zip(keys) {
            answers.push(served.and_then(|(slot, role, committed)| {
                let entry = entries.next().flatten().map(|entry| entry.to_entry());
                self.gate.confirm_at(slot, role, now)?;
                let found = match entry.filter(|entry| !is_expired(entry, now)) {
                    Some(entry) => self.found(slot, committed, entry, now),
                    None => self.look_closer(slot, role, key)?,
                };
                Ok(match found {
                    Found::Committed(reply) => Some(reply),
                    Found::Uncommitted(..) => None,
                })
            }));
        }
        answers
    }

    fn found(&self, slot: Slot, committed: Option<Seq>, entry: Entry, now: MonoTime) -> Found {
        let seq = entry.version.seq;
        let reply = Reply::Value(value(entry, now));
        let known = committed.is_some_and(|committed| seq <= committed);
        if known || self.is_committed(slot, seq) {
            Found::Committed(reply)
        } else {
            Found::Uncommitted(reply, seq)
        }
    }

    /// Nothing there, it seems. That answer must not be given while the write that made it so is uncommitted, a delete or one that gave it a
    /// lifetime, so the slot's version is read together with it.
    fn look_closer(&self, slot: Slot, role: RoleWord, key: &[u8]) -> Result<Found, DataError> {
        let (entry, version, deleted) = {
            let mut guard = self.store.lock(slot);
            let now = self.gate.confirm(slot, role)?;
            let mut entry = guard.get(key, MonoTime::ZERO);
            if entry.as_ref().is_some_and(|entry| is_expired(entry, now)) {
                self.remove_if_over(&mut guard, role, &Bytes::copy_from_slice(key), now);
                entry = guard.get(key, MonoTime::ZERO);
            }
            (entry, guard.version(), guard.last_delete())
        };
        let now = self.gate.confirm(slot, role)?;
        // What is over was so only from the write on that said when.
        let written = entry.as_ref().map_or(deleted, |entry| entry.version.seq);
        let (reply, seq) = match entry.filter(|entry| !is_expired(entry, now)) {
            Some(entry) => (Reply::Value(value(entry, now)), written),
            None => (Reply::Missing { slot: version }, deleted.max(written)),
        };
        Ok(if self.is_committed(slot, seq) {
            Found::Committed(reply)
        } else {
            Found::Uncommitted(reply, seq)
        })
    }

    /// Removes the key's entry if it is over, at the latest before anybody is told so: by the clock of a replica, which may take over, it is
    /// over a moment later.
    pub(super) fn remove_if_over(
        &self,
        guard: &mut SlotGuard<'_>,
        role: RoleWord,
        key: &Bytes,
        now: MonoTime,
    ) {
        let record = guard.evict_expired(role.epoch(), key, now);
        if record.is_some_and(|record| self.append(&record).is_ok()) {
            self.expired.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn is_committed(&self, slot: Slot, seq: Seq) -> bool {
        self.primary.committed(slot).is_some_and(|committed| seq <= committed)
    }
}

pub(super) fn is_expired(entry: &Entry, now: MonoTime) -> bool {
    entry.deadline.is_some_and(|deadline| deadline <= now)
}

pub(super) fn value(entry: Entry, now: MonoTime) -> Value {
    let ttl = entry.deadline.map(|deadline| deadline.saturating_since(now));
    Value { value: entry.value, version: entry.version, ttl }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use slotmesh_coherence::{Sink, Subscriber};
    use slotmesh_slots::{Class, Epoch, NodeId, NodeList, SlotState, Token};
    use slotmesh_store::{Condition, ExpireCondition};

    use super::*;
    use crate::data::{Ack, Clock, DataConfig, Wakers};
    use crate::request::Op;

    struct ByHand(AtomicU64);

    impl Clock for ByHand {
        fn now(&self) -> MonoTime {
            MonoTime::from_micros(self.0.load(Ordering::SeqCst))
        }
    }

    /// A slot without replicas, after it had one.
    fn alone() -> SlotState {
        let primary = Some(NodeId::from_random(1));
        SlotState { epoch: Epoch(1), primary, round: 2, ..SlotState::default() }
    }

    /// A primary whose entry is on its replica, which has been silent since.
    fn with_silent_replica() -> (DataPlane, Arc<ByHand>, Bytes) {
        let clock = Arc::new(ByHand(AtomicU64::new(1)));
        let me = NodeId::from_random(1);
        let data = DataPlane::new(me, DataConfig::default(), clock.clone(), Wakers::default());
        let key = Bytes::from_static(b"key");
        let slot = Slot::of_key(&key);
        data.apply_slot(slot, &SlotState { round: 0, ..alone() }, clock.now());
        data.extend_lease(MonoTime::from_micros(1_000_000));
        execute(&data, put(&key));
        assert!(matches!(data.get_now(&key), Ok(Some(Reply::Value(_)))));
        let in_sync = NodeList::from_iter([NodeId::from_random(2)]);
        data.apply_slot(slot, &SlotState { in_sync, round: 1, ..alone() }, clock.now());
        (data, clock, key)
    }

    fn put(key: &Bytes) -> Op {
        let (key, value) = (key.clone(), Bytes::from_static(b"value"));
        let condition = Condition::Always;
        Op::Put { key, value, ttl: None, keep_ttl: false, condition, class: Class::Cache }
    }

    fn execute(data: &DataPlane, op: Op) {
        data.execute(op, Ack::Primary, Box::new(|done| assert!(done.is_ok(), "{done:?}")));
    }

    /// What comes once the replicas have it.
    fn ask(data: &DataPlane, op: Op) -> Receiver<Result<Reply, DataError>> {
        let (sender, answers) = channel();
        let answer = Box::new(move |done| sender.send(done).expect("somebody waits"));
        data.execute(op, Ack::All, answer);
        answers
    }

    #[test]
    fn a_lifetime_is_not_told_before_the_replicas_know_it() {
        for ttl in [Some(Duration::from_millis(1)), Some(Duration::from_secs(60))] {
            let (data, clock, key) = with_silent_replica();
            let condition = ExpireCondition::Always;
            execute(&data, Op::Expire { key: key.clone(), ttl, condition });
            assert_eq!(data.get_now(&key), Ok(None), "how long it lives");
            clock.0.store(5_000, Ordering::SeqCst);
            assert_eq!(data.get_now(&key), Ok(None), "whether it lives");
        }
    }

    #[test]
    fn a_write_is_said_to_be_on_no_more_nodes_than_are_in_sync_when_it_is_answered() {
        let (data, clock, key) = with_silent_replica();
        let answers = ask(&data, put(&key));
        assert!(answers.try_recv().is_err(), "the replica is silent");
        data.apply_slot(Slot::of_key(&key), &alone(), clock.now());
        let answer = answers.try_recv().expect("nobody else has to know");
        assert!(matches!(answer, Ok(Reply::Put { applied: true, copies: 1, .. })), "{answer:?}");
    }

    /// An attempt that was sent before may arrive at a replica that has taken over.
    #[test]
    fn that_a_repetition_was_refused_is_told_when_the_replicas_know_it() {
        let (data, clock, key) = with_silent_replica();
        let slot = Slot::of_key(&key);
        let Op::Put { key, value, ttl, keep_ttl, class, .. } = put(&key) else { unreachable!() };
        let put = Op::Put { key, value, ttl, keep_ttl, condition: Condition::Absent, class };
        let refused = |done: Option<Result<Reply, DataError>>| {
            assert!(matches!(done, Some(Ok(Reply::Put { applied: false, .. }))), "{done:?}");
        };
        refused(ask(&data, put.clone().once(Token(6))).try_recv().ok());
        let mut again = put.once(Token(7));
        again.note_age(Duration::from_secs(1));
        let answers = ask(&data, again);
        assert!(answers.try_recv().is_err(), "the replica is silent");
        data.apply_slot(slot, &alone(), clock.now());
        refused(answers.try_recv().ok());
    }

    #[test]
    fn an_error_that_tells_of_what_is_stored_waits_for_it_as_a_reply_does() {
        let (data, clock, key) = with_silent_replica();
        execute(&data, put(&key));
        let answers = ask(&data, Op::Increment { key: key.clone(), delta: 1 });
        assert!(answers.try_recv().is_err(), "the value may be lost");
        data.apply_slot(Slot::of_key(&key), &alone(), clock.now());
        assert_eq!(answers.try_recv(), Ok(Err(DataError::NotAnInteger)));
    }

    #[test]
    fn what_is_over_is_removed_before_anybody_is_told_so() {
        let (data, clock, key) = with_silent_replica();
        let slot = Slot::of_key(&key);
        data.apply_slot(slot, &alone(), clock.now());
        let refused = [
            None,
            Some(Op::Delete { key: key.clone(), condition: Condition::Present }),
            Some(Op::GetAndExpire { key: key.clone(), ttl: None }),
        ];
        for asked in refused {
            execute(&data, put(&key));
            let ttl = Some(Duration::from_millis(1));
            execute(
                &data,
                Op::Expire { key: key.clone(), ttl, condition: ExpireCondition::Always },
            );
            clock.0.fetch_add(5_000, Ordering::SeqCst);
            assert_eq!(data.store.lock(slot).len(), 1);
            match asked {
                None => assert!(matches!(data.get_now(&key), Ok(Some(Reply::Missing { .. })))),
                Some(op) => execute(&data, op),
            }
            assert_eq!(data.store.lock(slot).len(), 0, "a record says so");
        }
    }

    /// Counts what it is told.
    #[derive(Default)]
    struct Told(AtomicU64);

    impl Sink for Told {
        fn invalidate(&self, _: Slot, _: Seq, _: u64) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_keeps_what_was_evicted_is_told_that_it_is_no_more() {
        let (data, clock, key) = with_silent_replica();
        let slot = Slot::of_key(&key);
        data.apply_slot(slot, &alone(), clock.now());
        let subscriber = Arc::new(Subscriber::new(data.me, Box::new(|_| {})));
        let told = Arc::new(Told::default());
        subscriber.register(&(Arc::clone(&told) as Arc<dyn Sink>), Duration::from_secs(1));
        data.attach(Arc::clone(&subscriber));
        assert!(data.subscribe(slot, subscriber.own()));
        let (always, now) = (ExpireCondition::Always, Some(Duration::ZERO));
        let gone = [
            Op::Expire { key: key.clone(), ttl: now, condition: always },
            Op::GetAndExpire { key: key.clone(), ttl: now },
            Op::Delete { key: key.clone(), condition: Condition::Present },
        ];
        for op in gone {
            execute(&data, put(&key));
            assert!(data.evict_one(&|_| true));
            let before = told.0.load(Ordering::SeqCst);
            execute(&data, op);
            assert_eq!(told.0.load(Ordering::SeqCst), before + 1);
        }
    }
}
