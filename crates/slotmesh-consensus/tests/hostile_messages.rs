//! No message, whoever sends it, stops a voter.

#![allow(missing_docs, clippy::unwrap_used)]

mod hostile;

use proptest::prelude::*;

/// What a term, index, node or flag of a message is likely to be, so that many messages get past the decoder.
fn small() -> impl Strategy<Value = u8> {
    prop_oneof![4 => 0u8..4, 1 => any::<u8>()]
}

/// One message in the form of an append: vote, entry before, entries, committed entry.
fn append() -> impl Strategy<Value = Vec<u8>> {
    let id = (1u8..3, 1u8..4, 0u8..6);
    let entry = (1u8..3, 1u8..4, 0u8..6, 0u8..2);
    let parts =
        (1u8..3, 1u8..4, proptest::option::of(id.clone()), proptest::option::of(id), 0u8..6);
    (parts, proptest::collection::vec(entry, 0..4), any::<bool>()).prop_map(
        |(parts, entries, follow)| {
            let (term, holder, before, committed, _) = parts;
            let option =
                |id: Option<(u8, u8, u8)>| id.map_or(vec![0], |id| vec![1, id.0, id.1, id.2]);
            let mut bytes = [&[1, term, holder, 1][..], &option(before)].concat();
            bytes.push(entries.len() as u8);
            let first = before.map_or(0, |id| id.2 + 1);
            for (position, (term, holder, index, kind)) in entries.into_iter().enumerate() {
                let index = if follow { first + position as u8 } else { index };
                bytes.extend([term, holder, index, kind]);
                bytes.extend(if kind == 1 { &[1, 7][..] } else { &[] });
            }
            bytes.extend(option(committed));
            bytes
        },
    )
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let free = (1u8..4, proptest::collection::vec(small(), 0..40));
    prop_oneof![append(), free.prop_map(|(kind, body)| [&[kind][..], &body].concat())]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn a_voter_survives_any_sequence_of_messages(messages in proptest::collection::vec(message(), 1..12)) {
        let framed = messages.iter().map(|message| [&[message.len() as u8][..], message].concat());
        hostile::survives(&framed.collect::<Vec<_>>().concat());
    }
}
