use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use slotmesh_admin::REQUEST_PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::arguments::BalanceAction;
use crate::secrets;

/// How long the node may take to answer: a little longer than it takes at most.
const ANSWER_TIMEOUT: Duration = REQUEST_PATIENCE.saturating_add(Duration::from_secs(1));

/// More is no answer of ours: a hundred members take 30 KiB.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Prints the node's status.
pub(crate) async fn status(addr: SocketAddr) -> ExitCode {
    tell(addr, "GET /api/status", "").await
}

/// Has the cluster keep another number of copies.
pub(crate) async fn replicas(addr: SocketAddr, replicas: u8) -> ExitCode {
    tell(addr, "POST /api/replicas", &format!("{{\"replicas\":{replicas}}}")).await
}

/// Pauses, resumes or aborts moves for balance.
pub(crate) async fn rebalance(addr: SocketAddr, action: BalanceAction) -> ExitCode {
    let action = match action {
        BalanceAction::Pause => "pause",
        BalanceAction::Resume => "resume",
        BalanceAction::Abort => "abort",
    };
    tell(addr, "POST /api/rebalance", &format!("{{\"action\":\"{action}\"}}")).await
}

/// Has a member, or the asked node itself, leave.
pub(crate) async fn drain(addr: SocketAddr, member: Option<&str>) -> ExitCode {
    let body = match member {
        Some(member) => format!("{{\"node\":{}}}", quoted(member)),
        None => "{}".to_owned(),
    };
    tell(addr, "POST /api/drain", &body).await
}

/// The text as a JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            // No name has any.
            letter if letter.is_control() => {}
            letter => quoted.push(letter),
        }
    }
    quoted + "\""
}

/// Has the nodes that this one sees go on without the others.
pub(crate) async fn reform(addr: SocketAddr) -> ExitCode {
    tell(addr, "POST /api/reform", "{}").await
}

/// Prints the text; whoever reads it may have had enough.
fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("slotmesh: cannot write the answer: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints the answer, or says on stderr why there is none.
async fn tell(addr: SocketAddr, what: &str, body: &str) -> ExitCode {
    let asked = timeout(ANSWER_TIMEOUT, ask(addr, what, body)).await;
    let problem = match asked {
        Ok(Ok(answer)) => match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.split(' ').nth(1) == Some("200") => {
                return print(body.trim_end());
            }
            Some((head, body)) => {
                let status = head.lines().next().and_then(|line| line.split_once(' '));
                format!("{}: {body}", status.map_or("no status", |(_, status)| status))
            }
            None if answer.is_empty() => "closed the connection without an answer".to_owned(),
            None => "no HTTP".to_owned(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    eprintln!("slotmesh: the admin listener {addr}: {}", problem.trim_end());
    ExitCode::FAILURE
}

/// Asks with HTTP/1.0, whose answer ends with the connection and is never cut into chunks.
async fn ask(addr: SocketAddr, what: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let token = secrets::variable("SLOTMESH_ADMIN_TOKEN").map_err(io::Error::other)?;
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let kind = match body.is_empty() {
        true => String::new(),
        false => format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()),
    };
    let request = format!("{what} HTTP/1.0\r\nhost: {addr}\r\n{token}{kind}\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
