use bytes::Bytes;

/// Which file carries a command out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    Strings,
    Keys,
    Server,
    Cluster,
    Connection,
}

/// Where a command's keys stand among its arguments; all zero for none. A negative last counts from the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct KeyPlaces {
    pub(super) first: usize,
    pub(super) last: i64,
    pub(super) step: usize,
}

/// What is known of a command; clients ask for it with `COMMAND`.
#[derive(Debug)]
pub(super) struct Spec {
    /// In lower case.
    pub(super) name: &'static str,
    /// Number of arguments with the name; negative for at least so many.
    pub(super) arity: i64,
    pub(super) flags: &'static [&'static str],
    pub(super) keys: KeyPlaces,
    pub(super) family: Family,
}

impl Spec {
    pub(super) fn takes(&self, args: usize) -> bool {
        let wanted = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity < 0 { args >= wanted } else { args == wanted }
    }

    pub(super) fn needs_no_login(&self) -> bool {
        self.flags.contains(&"no_auth")
    }

    pub(super) fn writes(&self) -> bool {
        self.flags.contains(&"write")
    }

    /// The keys among the arguments.
    pub(super) fn keys_in<'a>(&self, args: &'a [Bytes]) -> impl Iterator<Item = &'a Bytes> {
        let KeyPlaces { first, last, step } = self.keys;
        let behind = match usize::try_from(last) {
            Ok(last) => last + 1,
            Err(_) => args.len().saturating_sub(last.unsigned_abs() as usize - 1),
        };
        let count = if first == 0 { 0 } else { behind.saturating_sub(first) };
        args.iter().skip(first).take(count).step_by(step.max(1))
    }
}

/// The command of this name, in any case.
pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let found = COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    COMMANDS.get(found)
}

const NAME_BYTES_MAX: usize = 16;

const NO_KEYS: KeyPlaces = KeyPlaces { first: 0, last: 0, step: 0 };
const ONE_KEY: KeyPlaces = KeyPlaces { first: 1, last: 1, step: 1 };
const ALL_KEYS: KeyPlaces = KeyPlaces { first: 1, last: -1, step: 1 };
const KEYS_AND_VALUES: KeyPlaces = KeyPlaces { first: 1, last: -1, step: 2 };

const READ: &[&str] = &["readonly", "fast"];
const READ_LONG: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write", "denyoom"];
const WRITE_FAST: &[&str] = &["write", "denyoom", "fast"];
const CHANGE: &[&str] = &["write", "fast"];
const LOGIN: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const TALK: &[&str] = &["loading", "stale", "fast"];
const ADMIN: &[&str] = &["loading", "stale"];
const CHANGE_LONG: &[&str] = &["write"];

const fn spec(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: KeyPlaces,
    family: Family,
) -> Spec {
    Spec { name, arity, flags, keys, family }
}

/// Every command, sorted by name.
pub(super) static COMMANDS: &[Spec] = &[
    spec("append", 3, WRITE_FAST, ONE_KEY, Family::Strings),
    spec("auth", -2, LOGIN, NO_KEYS, Family::Connection),
    spec("client", -2, TALK, NO_KEYS, Family::Connection),
    spec("cluster", -2, ADMIN, NO_KEYS, Family::Cluster),
    spec("command", -1, ADMIN, NO_KEYS, Family::Server),
    spec("config", -2, ADMIN, NO_KEYS, Family::Server),
    spec("dbsize", 1, READ, NO_KEYS, Family::Server),
    spec("decr", 2, WRITE_FAST, ONE_KEY, Family::Strings),
    spec("decrby", 3, WRITE_FAST, ONE_KEY, Family::Strings),
    spec("del", -2, CHANGE_LONG, ALL_KEYS, Family::Keys),
    spec("echo", 2, TALK, NO_KEYS, Family::Connection),
    spec("exists", -2, READ, ALL_KEYS, Family::Keys),
    spec("expire", -3, CHANGE, ONE_KEY, Family::Keys),
    spec("expireat", -3, CHANGE, ONE_KEY, Family::Keys),
    spec("expiretime", 2, READ, ONE_KEY, Family::Keys),
    spec("flushall", -1, CHANGE_LONG, NO_KEYS, Family::Server),
    spec("flushdb", -1, CHANGE_LONG, NO_KEYS, Family::Server),
    spec("get", 2, READ, ONE_KEY, Family::Strings),
    spec("getdel", 2, CHANGE, ONE_KEY, Family::Strings),
    spec("getex", -2, CHANGE, ONE_KEY, Family::Strings),
    spec("getrange", 4, READ_LONG, ONE_KEY, Family::Strings),
    spec("getset", 3, WRITE_FAST, ONE_KEY, Family::Strings),
    spec("hello", -1, LOGIN, NO_KEYS, Family::Connection),
    spec("incr", 2, WRITE_FAST, ONE_KEY, Family::Strings),
    spec("incrby", 3, WRITE_FAST, ONE_KEY, Family::Strings),
    spec("info", -1, ADMIN, NO_KEYS, Family::Server),
    spec("mget", -2, READ, ALL_KEYS, Family::Strings),
    spec("mset", -3, WRITE, KEYS_AND_VALUES, Family::Strings),
    spec("persist", 2, CHANGE, ONE_KEY, Family::Keys),
    spec("pexpire", -3, CHANGE, ONE_KEY, Family::Keys),
    spec("pexpireat", -3, CHANGE, ONE_KEY, Family::Keys),
    spec("pexpiretime", 2, READ, ONE_KEY, Family::Keys),
    spec("ping", -1, TALK, NO_KEYS, Family::Connection),
    spec("psetex", 4, WRITE, ONE_KEY, Family::Strings),
    spec("pttl", 2, READ, ONE_KEY, Family::Keys),
    spec("quit", -1, LOGIN, NO_KEYS, Family::Connection),
    spec("readonly", 1, TALK, NO_KEYS, Family::Connection),
    spec("readwrite", 1, TALK, NO_KEYS, Family::Connection),
    spec("reset", 1, LOGIN, NO_KEYS, Family::Connection),
    spec("select", 2, TALK, NO_KEYS, Family::Connection),
    spec("set", -3, WRITE, ONE_KEY, Family::Strings),
    spec("setex", 4, WRITE, ONE_KEY, Family::Strings),
    spec("setnx", 3, WRITE_FAST, ONE_KEY, Family::Strings),
    spec("setrange", 4, WRITE, ONE_KEY, Family::Strings),
    spec("strlen", 2, READ, ONE_KEY, Family::Strings),
    spec("substr", 4, READ_LONG, ONE_KEY, Family::Strings),
    spec("touch", -2, READ, ALL_KEYS, Family::Keys),
    spec("ttl", 2, READ, ONE_KEY, Family::Keys),
    spec("type", 2, READ, ONE_KEY, Family::Keys),
    spec("unlink", -2, CHANGE, ALL_KEYS, Family::Keys),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_lower_case_and_found() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
        for spec in COMMANDS {
            assert_eq!(spec.name, spec.name.to_ascii_lowercase());
            let found = find(spec.name.to_ascii_uppercase().as_bytes());
            assert_eq!(found.map(|found| found.name), Some(spec.name));
            assert!(spec.takes(spec.arity.unsigned_abs() as usize));
        }
        for unknown in ["", "ge", "gett", "a-name-longer-than-any-command"] {
            assert!(find(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }

    #[test]
    fn keys_stand_where_the_table_says() {
        let check = |line: &str, keys: &[&str]| {
            let args: Vec<_> = line.split(' ').map(|arg| Bytes::from(arg.to_owned())).collect();
            let spec = find(&args[0]).unwrap();
            assert_eq!(spec.keys_in(&args).collect::<Vec<_>>(), keys, "{line}");
        };
        check("GET a", &["a"]);
        check("SET a b EX 1", &["a"]);
        check("MGET a b c", &["a", "b", "c"]);
        check("MSET a 1 b 2", &["a", "b"]);
        check("PING a", &[]);
    }
}
