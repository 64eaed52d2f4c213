//! The slotmesh binary: runs a node from the command line.
//!
//! `slotmesh serve` runs a node until SIGTERM or SIGINT, `slotmesh status` asks a running one, `slotmesh replicas` has
//! it change the number of copies, `slotmesh rebalance` pauses, resumes or aborts moves for balance, `slotmesh drain` has a
//! member give its slots away and leave, `slotmesh reform` has it go on without a lost majority. Exit codes: 0 done, 1 the node
//! could not start or the question was not answered, 2 the settings cannot work, 130 interrupted twice.

mod admin;
mod arguments;
mod logs;
mod secrets;
mod serve;
mod settings;
mod signals;
mod size;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // The node's own work has threads of its own; these two carry Redis clients and admin requests.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("slotmesh-cli")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("slotmesh: cannot start a thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match arguments.command {
            Command::Serve(arguments) => serve::run(&arguments).await,
            Command::Status(arguments) => admin::status(arguments.admin).await,
            Command::Reform(arguments) => admin::reform(arguments.admin).await,
            Command::Rebalance(arguments) => {
                admin::rebalance(arguments.node.admin, arguments.action).await
            }
            Command::Drain(arguments) => {
                admin::drain(arguments.node.admin, arguments.member.as_deref()).await
            }
            Command::Replicas(arguments) => {
                admin::replicas(arguments.node.admin, arguments.replicas).await
            }
        }
    });
    // Clients that are still connected do not keep the process.
    runtime.shutdown_background();
    code
}
