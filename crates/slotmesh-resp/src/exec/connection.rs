use super::{Call, failure};
use crate::protocol::{Frame, Protocol};
use crate::session::Session;

/// The version of Redis whose behaviour clients may expect of the commands there are; many refuse to work without one.
pub(super) const REDIS_VERSION: &str = "7.2.4";

/// Longest name of a connection.
const NAME_BYTES_MAX: usize = 256;

pub(super) fn run(mut call: Call<'_>) -> Frame {
    let outcome = match call.spec.name {
        "ping" => ping(&call),
        "echo" => Ok(Frame::Bulk(call.bytes(1))),
        "hello" => hello(&mut call),
        "auth" => auth(&mut call),
        "client" => client(&mut call),
        "select" => select(&call),
        "readonly" => reads_anywhere(&mut call, true),
        "readwrite" => reads_anywhere(&mut call, false),
        "reset" => {
            call.session.reset(call.gateway);
            Ok(Frame::Simple("RESET".into()))
        }
        "quit" => {
            call.session.closing = true;
            Ok(Frame::OK)
        }
        _ => Err(failure::unknown_command(call.args)),
    };
    outcome.unwrap_or_else(|refusal| refusal)
}

fn ping(call: &Call<'_>) -> Result<Frame, Frame> {
    match call.args.len() {
        1 => Ok(Frame::Simple("PONG".into())),
        2 => Ok(Frame::Bulk(call.bytes(1))),
        _ => Err(failure::wrong_arity("ping")),
    }
}

fn reads_anywhere(call: &mut Call<'_>, anywhere: bool) -> Result<Frame, Frame> {
    call.session.reads_anywhere = anywhere;
    Ok(Frame::OK)
}

fn select(call: &Call<'_>) -> Result<Frame, Frame> {
    match super::arguments::integer(call.arg(1))? {
        0 => Ok(Frame::OK),
        _ => Err(Frame::error("ERR SELECT is not allowed in cluster mode")),
    }
}

fn auth(call: &mut Call<'_>) -> Result<Frame, Frame> {
    let (user, password) = match call.args.len() {
        2 => (&b"default"[..], call.arg(1)),
        3 => (call.arg(1), call.arg(2)),
        _ => return Err(failure::syntax()),
    };
    if call.args.len() == 2 && call.gateway.config.password.is_none() {
        return Err(Frame::error(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        ));
    }
    if !password_fits(call, user, password) {
        return Err(failure::wrong_password());
    }
    call.session.trusted = true;
    Ok(Frame::OK)
}

fn password_fits(call: &Call<'_>, user: &[u8], password: &[u8]) -> bool {
    user == b"default" && call.gateway.password_is(password)
}

/// What `HELLO` asks for besides the version.
#[derive(Default)]
struct HelloOptions {
    trusted: bool,
    name: Option<String>,
}

fn hello(call: &mut Call<'_>) -> Result<Frame, Frame> {
    let mut protocol = call.session.protocol;
    if call.args.len() > 1 {
        protocol = match super::arguments::integer(call.arg(1)) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return Err(Frame::error("NOPROTO unsupported protocol version")),
            Err(_) => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Err(Frame::error(text));
            }
        };
    }
    let options = hello_options(call)?;
    if !options.trusted && !call.session.trusted {
        return Err(Frame::error(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time",
        ));
    }
    call.session.trusted = true;
    call.session.protocol = protocol;
    if let Some(name) = options.name {
        call.session.name = name;
    }
    Ok(greeting(call.session))
}

fn hello_options(call: &Call<'_>) -> Result<HelloOptions, Frame> {
    let mut options = HelloOptions::default();
    let mut index = 2;
    while index < call.args.len() {
        let left = call.args.len() - index - 1;
        match call.word(index).as_str() {
            "auth" if left >= 2 => {
                if !password_fits(call, call.arg(index + 1), call.arg(index + 2)) {
                    return Err(failure::wrong_password());
                }
                options.trusted = true;
                index += 3;
            }
            "setname" if left >= 1 => {
                options.name = Some(name(call.arg(index + 1))?);
                index += 2;
            }
            _ => {
                let word = failure::shown(call.arg(index));
                return Err(Frame::error(format!("ERR Syntax error in HELLO option '{word}'")));
            }
        }
    }
    Ok(options)
}

fn greeting(session: &Session) -> Frame {
    let pair = |key, value| (Frame::bulk(key), value);
    Frame::Map(vec![
        pair("server", Frame::bulk("redis")),
        pair("version", Frame::bulk(REDIS_VERSION)),
        pair("proto", Frame::Integer(session.protocol.number())),
        pair("id", Frame::Integer(session.id as i64)),
        pair("mode", Frame::bulk("cluster")),
        pair("role", Frame::bulk("master")),
        pair("modules", Frame::Array(Vec::new())),
    ])
}

fn client(call: &mut Call<'_>) -> Result<Frame, Frame> {
    let subcommand = call.word(1);
    let wanted = match subcommand.as_str() {
        "id" | "getname" => 2,
        "setname" | "no-evict" | "no-touch" => 3,
        "setinfo" => 4,
        _ => return Err(call.unknown_subcommand()),
    };
    if call.args.len() != wanted {
        return Err(call.wrong_arity(&subcommand));
    }
    match subcommand.as_str() {
        "id" => Ok(Frame::Integer(call.session.id as i64)),
        "getname" if call.session.name.is_empty() => Ok(Frame::Null),
        "getname" => Ok(Frame::bulk(&call.session.name)),
        "setname" => {
            call.session.name = name(call.arg(2))?;
            Ok(Frame::OK)
        }
        "setinfo" => match call.word(2).as_str() {
            "lib-name" | "lib-ver" => Ok(Frame::OK),
            _ => Err(Frame::error(format!(
                "ERR Unrecognized option '{}'",
                failure::shown(call.arg(2))
            ))),
        },
        // Nothing is evicted or touched for a connection, so either wish is granted.
        _ => match call.word(2).as_str() {
            "on" | "off" => Ok(Frame::OK),
            _ => Err(failure::syntax()),
        },
    }
}

fn name(arg: &[u8]) -> Result<String, Frame> {
    let printable = arg.iter().all(|byte| (b'!'..=b'~').contains(byte));
    if !printable || arg.len() > NAME_BYTES_MAX {
        let text = "ERR Client names cannot contain spaces, newlines or special characters.";
        return Err(Frame::error(text));
    }
    Ok(String::from_utf8_lossy(arg).into_owned())
}
