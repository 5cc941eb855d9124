//! The `worker` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    worker::cli::main()
}
