use slotmesh_slots::Slot;

use crate::store::Store;

impl Store {
    /// Recounts everything that is kept incrementally: bytes, entries, digests, value hashes, earliest deadlines and
    /// occupied slots. Reads all values; for tests, fuzzing and the simulator. Call it while nobody writes and without
    /// holding a guard.
    ///
    /// # Errors
    /// Names the first difference and its slot.
    pub fn check_invariants(&self) -> Result<(), String> {
        let (mut bytes, mut entries, mut state_bytes) = (0, 0, 0);
        for slot in Slot::all() {
            let contents = self.slot(slot);
            contents.check(self.home(slot)).map_err(|what| format!("slot {slot}: {what}"))?;
            if self.occupancy.contains(slot) == contents.is_empty() {
                return Err(format!("slot {slot}: occupied bit is wrong"));
            }
            if !self.deadlines.is_published(slot, contents.sweep.earliest()) {
                return Err(format!("slot {slot}: published deadline is wrong"));
            }
            bytes += contents.bytes();
            entries += contents.len();
            state_bytes += contents.state_bytes();
        }
        if (bytes, entries) != (self.entry_bytes(), self.len()) {
            return Err(format!(
                "slots hold {entries} entries of {bytes} bytes, the totals say {} of {}",
                self.len(),
                self.entry_bytes()
            ));
        }
        if state_bytes != self.state_bytes() {
            return Err(format!(
                "{state_bytes} bytes are never evicted, not {}",
                self.state_bytes()
            ));
        }
        Ok(())
    }
}
