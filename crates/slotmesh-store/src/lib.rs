//! In-memory store of 16384 independently lockable slots with versions, expiry, a byte budget and eviction. It knows no network and no clock.
