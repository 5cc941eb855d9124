//! The real binaries on loopback: a coordinator and its workers as a person runs them, with tiny models on a small
//! corpus that is made up here.
//!
//! The binaries are those beside this test's own (`target/debug/coordinator` and `worker`): `cargo xtask test` builds
//! the workspace first; by hand, run `cargo build -p coordinator -p worker` before `cargo nextest run -p e2e`.
//! Everything a test starts ends with it. When a test fails, the ends of all logs are printed.

#![allow(clippy::print_stderr)] // seeds and logs are for whoever reads the test's output

pub mod chaos;
mod cluster;
mod config;
mod corpus;
pub mod interruption;
mod network;
mod process;
mod proxy;

pub use cluster::{Cluster, Worker};
pub use config::{SLOW, pretraining};
pub use corpus::{Corpus, WORDS, text_parquet};
pub use network::{Host, Network};
pub use process::{Output, program};
pub use proxy::Proxy;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A random source of [`seed`].
pub fn seeded(name: &str) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed(name))
}

/// A random seed that is printed (shown when the test fails) and can be set with `TRIREME_TEST_SEED`.
pub fn seed(name: &str) -> u64 {
    let seed = match std::env::var("TRIREME_TEST_SEED") {
        Ok(text) => text.parse().expect("TRIREME_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    eprintln!("{name}: TRIREME_TEST_SEED={seed}");
    seed
}
