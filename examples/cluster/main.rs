//! The main job: three node processes on loopback form a cluster and serve a real cache trace from a SQLite source, while one
//! of them is killed and replaced.
//!
//! `cargo run --release --example cluster` shows a progress bar, prints a report and one line `RESULT {…}`, and writes a
//! picture of the run as HTML. Started again by itself with `--node`, the program is one of the nodes.

mod histogram;
mod node;
mod orchestrate;
mod picture;
mod protocol;
mod report;
mod source;
mod trace;
mod workload;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("--node") => node::main(),
        Some("--seconds") => match args.get(1).and_then(|seconds| seconds.parse().ok()) {
            Some(seconds) => orchestrate::main(seconds),
            None => Err("--seconds needs a whole number".into()),
        },
        Some(other) => Err(format!("unknown argument {other:?}; try --seconds 24").into()),
        None => orchestrate::main(orchestrate::SECONDS_DEFAULT),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
