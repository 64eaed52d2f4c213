//! The scripts: each is one operation, carried out by the server as a whole.

use std::sync::LazyLock;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, Script as Source, ServerErrorKind, Value};

/// A script.
pub(crate) struct Script {
    text: &'static str,
    hash: String,
}

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {$(
        pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));
    )*};
}

scripts! {
    PUT = "put.lua";
    DELETE = "delete.lua";
    LOAD = "load.lua";
    END_LOAD = "end_load.lua";
}

/// A script with its keys and arguments.
#[derive(Clone)]
pub(crate) struct Call {
    script: &'static Script,
    keys: Vec<Vec<u8>>,
    args: Vec<Vec<u8>>,
}

impl Script {
    fn new(text: &'static str) -> Self {
        Self { text, hash: Source::new(text).get_hash().to_owned() }
    }

    pub(crate) fn call(&'static self, keys: Vec<Vec<u8>>, args: Vec<Vec<u8>>) -> Request {
        Request::Script(Call { script: self, keys, args })
    }
}

/// What one request asks of one server.
#[derive(Clone)]
pub(crate) enum Request {
    Script(Call),
    /// A value and how long it lives, one after the other: what comes in between is told of, as any write is.
    Get(Vec<u8>),
}

impl Request {
    /// The same, without what belongs to the second key.
    pub(crate) fn of_first_key(mut self) -> Self {
        if let Self::Script(call) = &mut self {
            call.keys.truncate(1);
        }
        self
    }

    pub(crate) async fn run(&self, on: MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            Self::Script(call) => call.run(on).await,
            Self::Get(name) => get(name, on, false).await,
        }
    }

    /// The same at a server that is about to get the slot.
    pub(crate) async fn run_asking(&self, on: MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            Self::Script(call) => call.run_asking(on).await,
            Self::Get(name) => get(name, on, true).await,
        }
    }
}

/// An array of both.
async fn get(
    name: &[u8],
    mut on: MultiplexedConnection,
    is_asking: bool,
) -> Result<Value, RedisError> {
    let mut asked = Pipeline::with_capacity(4);
    for command in ["GET", "PTTL"] {
        if is_asking {
            asked.cmd("ASKING").ignore();
        }
        asked.cmd(command).arg(name);
    }
    let count = asked.len();
    let mut answers = on.send_packed_commands(&asked, 0, count).await?;
    if is_asking {
        answers = answers.into_iter().skip(1).step_by(2).collect();
    }
    checked(Ok(Value::Array(answers)))
}

impl Call {
    /// Carries it out. Where the server does not know the script yet it gets it.
    async fn run(&self, mut on: MultiplexedConnection) -> Result<Value, RedisError> {
        let known = on.send_packed_command(&self.command("EVALSHA", &self.script.hash)).await;
        match checked(known) {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                checked(on.send_packed_command(&self.command("EVAL", self.script.text)).await)
            }
            known => known,
        }
    }

    /// The same at a server that is about to get the slot.
    async fn run_asking(&self, mut on: MultiplexedConnection) -> Result<Value, RedisError> {
        let mut both = Pipeline::with_capacity(2);
        both.add_command(redis::cmd("ASKING")).add_command(self.command("EVAL", self.script.text));
        let mut answers = on.send_packed_commands(&both, 1, 1).await?;
        checked(Ok(answers.pop().unwrap_or(Value::Nil)))
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len());
        self.keys.iter().chain(&self.args).for_each(|it| {
            command.arg(it.as_slice());
        });
        command
    }
}

/// An error that came as an answer is one.
fn checked(answer: Result<Value, RedisError>) -> Result<Value, RedisError> {
    answer?.extract_error()
}
