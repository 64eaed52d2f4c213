//! The source of truth: a SQLite file with an object per key of the trace, and profiles that change during the run.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::Failure;

/// Mutable profiles; each is written by one node only.
pub(crate) const PROFILES: u32 = 999;

pub(crate) struct Source {
    db: Connection,
}

/// The content of an object is a function of its key, so that a reader can tell a wrong one without asking.
pub(crate) fn object(key: u32) -> String {
    let mixed = u64::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    format!("object {key} {mixed:016x} {}", "x".repeat((mixed % 96) as usize))
}

impl Source {
    /// Makes the file with an object for each key below `keys`.
    pub(crate) fn create(path: &Path, keys: u32) -> Result<(), Failure> {
        let mut db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.execute_batch(
            "CREATE TABLE object (key INTEGER PRIMARY KEY, content TEXT NOT NULL);
             CREATE TABLE profile (key INTEGER PRIMARY KEY, version INTEGER NOT NULL, acked INTEGER NOT NULL);",
        )?;
        let all = db.transaction()?;
        {
            let mut insert = all.prepare("INSERT INTO object VALUES (?1, ?2)")?;
            for key in 0..keys {
                insert.execute(params![key, object(key)])?;
            }
            let mut insert = all.prepare("INSERT INTO profile VALUES (?1, 1, 1)")?;
            for key in 0..PROFILES {
                insert.execute([key])?;
            }
        }
        all.commit()?;
        Ok(())
    }

    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let db = Connection::open(path)?;
        db.busy_timeout(Duration::from_secs(5))?;
        // The run is thrown away afterwards; losing it in a power failure is fine.
        db.pragma_update(None, "synchronous", "OFF")?;
        db.set_prepared_statement_cache_capacity(16);
        Ok(Self { db })
    }

    pub(crate) fn object(&self, key: u32) -> Result<Option<String>, Failure> {
        let mut select = self.db.prepare_cached("SELECT content FROM object WHERE key = ?1")?;
        let mut rows = select.query([key])?;
        Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
    }

    pub(crate) fn profile(&self, key: u32) -> Result<u64, Failure> {
        let mut select = self.db.prepare_cached("SELECT version FROM profile WHERE key = ?1")?;
        Ok(select.query_row([key], |row| row.get(0))?)
    }

    /// Raises a profile's version and returns it.
    pub(crate) fn update(&self, key: u32) -> Result<u64, Failure> {
        let sql = "UPDATE profile SET version = version + 1 WHERE key = ?1 RETURNING version";
        Ok(self.db.prepare_cached(sql)?.query_row([key], |row| row.get(0))?)
    }

    /// Notes that the cache has acknowledged this version: from now on nobody may read an older one for long.
    pub(crate) fn acknowledged(&self, key: u32, version: u64) -> Result<(), Failure> {
        let sql = "UPDATE profile SET acked = max(acked, ?2) WHERE key = ?1";
        self.db.prepare_cached(sql)?.execute(params![key, version])?;
        Ok(())
    }

    /// The acknowledged version of every profile.
    pub(crate) fn floors(&self) -> Result<Vec<u64>, Failure> {
        let mut select = self.db.prepare_cached("SELECT acked FROM profile ORDER BY key")?;
        let rows = select.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
