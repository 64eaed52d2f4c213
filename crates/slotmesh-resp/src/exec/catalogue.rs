use super::Call;
use super::table::{self, COMMANDS, Spec};
use crate::protocol::Frame;

/// `COMMAND`: what commands there are and where their keys stand.
pub(super) fn run(call: &Call<'_>) -> Frame {
    if call.args.len() == 1 {
        return Frame::Array(COMMANDS.iter().map(describe).collect());
    }
    match call.word(1).as_str() {
        "count" if call.args.len() == 2 => Frame::Integer(COMMANDS.len() as i64),
        // There are no texts for people.
        "docs" => Frame::Map(Vec::new()),
        "list" if call.args.len() == 2 => Frame::bulks(COMMANDS.iter().map(|spec| spec.name)),
        "info" if call.args.len() == 2 => Frame::Array(COMMANDS.iter().map(describe).collect()),
        "info" => {
            let names = call.args.get(2..).unwrap_or_default().iter();
            let found = names.map(|name| table::find(name).map_or(Frame::Null, describe));
            Frame::Array(found.collect())
        }
        "getkeys" if call.args.len() > 2 => keys(call),
        known @ ("count" | "list" | "getkeys") => call.wrong_arity(known),
        _ => call.unknown_subcommand(),
    }
}

fn keys(call: &Call<'_>) -> Frame {
    let args = call.args.get(2..).unwrap_or_default();
    let Some(spec) = args.first().and_then(|name| table::find(name)) else {
        return Frame::error("ERR Invalid command specified");
    };
    if !spec.takes(args.len()) {
        return Frame::error("ERR Invalid number of arguments specified for command");
    }
    let keys: Vec<_> = spec.keys_in(args).cloned().map(Frame::Bulk).collect();
    if keys.is_empty() {
        Frame::error("ERR The command has no key arguments")
    } else {
        Frame::Array(keys)
    }
}

/// Name, arity, flags, place of the keys, categories, tips, key specifications, subcommands.
fn describe(spec: &Spec) -> Frame {
    let words = |words: &[&str]| {
        Frame::Array(words.iter().map(|&word| Frame::Simple(word.to_owned().into())).collect())
    };
    Frame::Array(vec![
        Frame::bulk(spec.name),
        Frame::Integer(spec.arity),
        words(spec.flags),
        Frame::Integer(spec.keys.first as i64),
        Frame::Integer(spec.keys.last),
        Frame::Integer(spec.keys.step as i64),
        words(&[]),
        words(&[]),
        Frame::Array(key_places(spec).into_iter().collect()),
        words(&[]),
    ])
}

fn key_places(spec: &Spec) -> Option<Frame> {
    let keys = spec.keys;
    if keys.first == 0 {
        return None;
    }
    let map = |pairs: Vec<(&str, Frame)>| {
        Frame::Map(pairs.into_iter().map(|(key, value)| (Frame::bulk(key), value)).collect())
    };
    let flags = if spec.writes() { ["RW", "update"] } else { ["RO", "access"] };
    let begin = map(vec![
        ("type", Frame::bulk("index")),
        ("spec", map(vec![("index", Frame::Integer(keys.first as i64))])),
    ]);
    // Here the last key counts from the first one, unless it counts from the end.
    let last = if keys.last < 0 { keys.last } else { keys.last - keys.first as i64 };
    let range = map(vec![
        ("lastkey", Frame::Integer(last)),
        ("keystep", Frame::Integer(keys.step as i64)),
        ("limit", Frame::Integer(0)),
    ]);
    let find = map(vec![("type", Frame::bulk("range")), ("spec", range)]);
    Some(map(vec![("flags", Frame::bulks(flags)), ("begin_search", begin), ("find_keys", find)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_with_keys_say_where() {
        for spec in COMMANDS {
            assert_eq!(key_places(spec).is_some(), spec.keys.first > 0, "{}", spec.name);
        }
    }
}
