use slotmesh_coherence::KeyHasher;

use crate::key::CacheKey;

/// What [`slotmesh_coherence::key_hash`] says of the key as the cluster has it.
#[inline]
pub(crate) fn hash_of(hasher: &KeyHasher, key: &impl CacheKey) -> u64 {
    match key.number() {
        Some(number) => hasher.number(number),
        None => key.with_text(|text| hasher.text(text)),
    }
}

#[cfg(test)]
mod tests {
    use slotmesh_coherence::key_hash;

    use super::*;

    fn check(key: &(impl CacheKey + std::fmt::Debug)) {
        let mut whole = b"users:12:".to_vec();
        key.write(&mut whole);
        let hash = hash_of(&KeyHasher::new(9, b"users:12:"), key);
        assert_eq!(key_hash(9, &whole), hash, "{key:?}");
    }

    #[test]
    fn nodes_agree_on_typed_and_written_keys() {
        check(&42_u64);
        check(&0_u8);
        check(&u64::MAX);
        check(&(u128::from(u64::MAX) + 1));
        check(&-1_i8);
        check(&i128::MIN);
        check(&"42".to_owned());
        check(&(1_u8, "b:c".to_owned()));
        check(&[7_u8; 16]);
    }
}
